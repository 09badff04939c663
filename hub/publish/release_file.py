"""Parse `release.toml`, a release as its publisher describes it. Knows the keys and their bounds, and opens none of the files.

Every path is relative to the file's own folder. An option of the command line overrides the file, field by field.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Self, Union, get_args, get_origin

from pydantic import BaseModel, Field, ValidationError, model_validator

from fleetcast.toml_text import parse_toml
from hub.publish.publish_request import ACCURACY_EPSILON, ACCURACY_WINDOW_SECONDS, CALIBRATION_ROWS, DEFAULT_VARIANT, LOSS_MAX, Build, How
from hub.publish.release_statements import Place, at_place, line_of, unused
from schemas.document import Fact
from schemas.errors import Code, Refused, mismatch
from schemas.limits import (
    BLOCK_BYTES_MAX,
    CALIBRATION_ROWS_MIN,
    KIB,
    MIB,
    RHO_DAY_MAX,
    TENSOR_RANK_MAX,
    TENSORS_MAX,
    VARIANTS_MAX,
    WINDOW_SECONDS_MAX,
)
from schemas.manifest import Limits, Requirements, Tensor, Text
from schemas.names import Label, ModelName, Version
from schemas.parameters import Parameters
from schemas.patterns import wrong_text
from schemas.signals import Season

BYTES_MAX = MIB  # A page of settings.
PATH_SHOWN_MAX = 1024
SPARSITY = 0.5  # Sparsity of a pruned build by default.
NAMED: Mapping[str, How] = {
    "fp32": "as-is",
    "original": "as-is",
    "int8": "int8",
    "int8-static": "int8-static",
    "int8-weights": "int8-weights",
    "fp16": "fp16",
    "pruned": "pruned",
}  # Builds that need no more than their name.

Columns = Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(min_length=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Shape = Annotated[tuple[Annotated[int, Field(ge=-1, le=2**31)], ...], Field(max_length=TENSOR_RANK_MAX)]
Sparsity = Annotated[float, Field(gt=0, lt=1)]


class ReferenceTable(Fact):
    """Parse `[reference]`: the data that windows are compared with."""

    data: Path
    blocks: str | None = None
    columns: Columns | None = None
    signals: Columns | None = None
    time: str | None = None
    season: Season = Season(hours=4, weekends=True)


class GoldenTable(Fact):
    """Parse `[golden]`: the inputs that a device has to answer before it serves; `data` is an npz, or prompts in TOML or JSON."""

    data: Path | None = None
    proof: bool = True  # False publishes without golden inputs.
    relative_tolerance: Share | None = None
    absolute_tolerance: Annotated[float, Field(ge=0)] | None = None
    text_agreement_min: Annotated[float, Field(gt=0, le=1)] | None = None


class PrivacyTable(Fact):
    """Parse `[privacy]`: the promise for one record in a window."""

    epsilon: Annotated[float, Field(gt=0, le=64)] = 1.0
    delta: Annotated[float, Field(gt=0, lt=1)] = 1e-6
    window_seconds: Annotated[int, Field(ge=1, le=WINDOW_SECONDS_MAX)] = 3600
    noise: Literal["gaussian", "laplace"] = "gaussian"
    calibration_rows: Annotated[int, Field(ge=0)] | None = None  # 0 gives nodes no baseline of their own.
    # Daily budget that nodes' settings allow: an own baseline must fit it beside a window.
    rho_day_max: Annotated[float, Field(gt=0)] = RHO_DAY_MAX

    @model_validator(mode="after")
    def _calibrates_or_not(self) -> Self:
        if self.calibration_rows is not None and 0 < self.calibration_rows < CALIBRATION_ROWS_MIN:
            raise ValueError(f"calibration_rows must be 0 or at least {CALIBRATION_ROWS_MIN}")
        return self

    def own_rows(self, *, watches: bool) -> int | None:
        """Return the rows after which a node has its own baseline; the default applies to releases with a reference."""
        if self.calibration_rows is None:
            return CALIBRATION_ROWS if watches else None
        return self.calibration_rows or None


class AccuracyTable(Fact):
    """Parse `[accuracy]`: the known right and wrong answers, for sites that learn the truth later.

    `truth` is a column of held-out rows (`data`, else the reference's), with their `blocks`; `counts` is a CSV with the columns right
    and wrong, one row per block.
    """

    data: Path | None = None
    truth: Annotated[str, Field(min_length=1)] | None = None
    blocks: str | None = None
    output: str | None = None
    right_within: Annotated[float, Field(ge=0)] | None = None
    counts: Path | None = None
    epsilon: Annotated[float, Field(gt=0, le=64)] = ACCURACY_EPSILON
    window_seconds: Annotated[int, Field(ge=1, le=WINDOW_SECONDS_MAX)] = ACCURACY_WINDOW_SECONDS

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.truth is None) == (self.counts is None):
            raise ValueError("give either truth (a column of held-out rows) or counts (a file of right and wrong answers)")
        if self.counts is not None and any(one is not None for one in (self.data, self.blocks, self.output, self.right_within)):
            raise ValueError("data, blocks, output and right_within need truth; omit them with counts")
        return self


class VariantsTable(Fact):
    """Parse `[variants]`: the builds in order of preference, by the name of a `[[variant]]` or of a method, and terms for all."""

    builds: Annotated[tuple[str, ...], Field(max_length=VARIANTS_MAX)] = ()
    loss_max: Annotated[float, Field(ge=0, le=1)] = LOSS_MAX
    all_or_none: bool = False
    held_out: Path | None = None
    truth: str | None = None
    output: str | None = None
    calibration: Path | None = None
    sparsity: Sparsity = SPARSITY


class VariantTable(Fact):
    """Parse `[[variant]]`: one build, and what a device must have for it. `build` is the method, by default its name."""

    name: Label
    build: Annotated[str, Field(min_length=1)] | None = None
    model: Path | None = None
    sparsity: Sparsity | None = None
    requirements: Requirements = Requirements()

    @model_validator(mode="after")
    def _known(self) -> Self:
        if self.build is None and self.model is None and self.name not in NAMED:
            raise ValueError(f"the name {self.name!r} needs a build: one of {', '.join(NAMED)}, or model")
        if self.build is not None and self.build not in NAMED:
            raise ValueError(f"build must be one of {', '.join(NAMED)}")
        return self


class ReleaseFile(Fact):
    """Parse the whole file. A command line without a file makes one, too."""

    name: ModelName
    version: Version
    model: Path
    files: tuple[Path, ...] = ()
    licence: Annotated[str, Field(max_length=64)] = ""
    description: Text = ""
    parent: Version | None = None
    runtime: Label | None = None
    state_joining: bool | None = None  # If not given, it is stated unless a node of the fleet would refuse it.
    fix_shapes: bool = False
    block_bytes: Annotated[int, Field(ge=KIB, le=BLOCK_BYTES_MAX)] | None = None
    inputs: Annotated[tuple[Tensor, ...], Field(min_length=1, max_length=TENSORS_MAX)] | None = None
    outputs: Annotated[tuple[Tensor, ...], Field(min_length=1, max_length=TENSORS_MAX)] | None = None
    input_shapes: Annotated[dict[str, Shape], Field(min_length=1, max_length=TENSORS_MAX)] | None = None
    reference: ReferenceTable | None = None
    golden: GoldenTable = GoldenTable()
    accuracy: AccuracyTable | None = None
    privacy: PrivacyTable = PrivacyTable()
    limits: Limits = Limits()
    parameters: Parameters = ()
    variants: VariantsTable = VariantsTable()
    variant: Annotated[tuple[VariantTable, ...], Field(max_length=VARIANTS_MAX)] = ()

    @property
    def builds(self) -> tuple[Build, ...]:
        """Return the builds in order of preference:

        those in `variants.builds`, or every `[[variant]]`, or one unchanged build by default.
        """
        listed = {one.name: one for one in self.variant}
        named = self.variants.builds or [one.name for one in self.variant]
        return tuple(self._build(listed.get(name) or VariantTable(name=name)) for name in named) or (Build(DEFAULT_VARIANT),)

    def paths(self) -> Iterator[tuple[str, Path]]:
        """Return every file that is named, with its place."""
        yield "model", self.model
        yield from ((f"files.{number}", path) for number, path in enumerate(self.files))
        yield from ((f"variant.{number}.model", one.model) for number, one in enumerate(self.variant) if one.model is not None)
        given = {
            "reference.data": self.reference.data if self.reference else None,
            "golden.data": self.golden.data,
            "accuracy.data": self.accuracy.data if self.accuracy else None,
            "accuracy.counts": self.accuracy.counts if self.accuracy else None,
            "variants.held_out": self.variants.held_out,
            "variants.calibration": self.variants.calibration,
        }
        yield from ((where, path) for where, path in given.items() if path is not None)

    def _build(self, one: VariantTable) -> Build:
        how = NAMED[one.build or one.name] if one.build or (one.name in NAMED and one.model is None) else "as-is"
        sparsity = one.sparsity or (self.variants.sparsity if how == "pruned" else 0.0)
        return Build(one.name, how, sparsity, one.model, one.requirements)


def read_release(path: Path | None, overrides: Mapping[str, Any], *, archs: Callable[[], frozenset[str]] = frozenset) -> ReleaseFile:
    """Return the file's content, overridden by the command line; paths of both are absolute.

    `archs` returns architectures that devices of the fleet have, besides those that are known.

    Raises:
        Refused: SETTINGS_INVALID: unreadable, not TOML, an unknown key, a wrong type, a missing value, a file that is not there, or a
            statement that nothing would use.
    """
    text = _text(path) if path is not None else ""
    source = _Source(path, text, overrides)
    fields = _over(_rooted(_toml(path, text), path.parent), overrides) if path is not None else dict(overrides)
    try:
        release = ReleaseFile.model_validate_json(json.dumps(fields, default=str), strict=True)
    except ValidationError as error:
        raise _sentence(source, error) from None
    known = {**dict.fromkeys(one.name for one in release.variant), **dict.fromkeys(NAMED)}
    wrong = [name for name in release.variants.builds if name not in known]
    if wrong:
        raise source.mismatch(("variants", "builds"), expected=f"some of {', '.join(known)}", actual=wrong[0])
    for where, file in release.paths():
        found = _found_at(file)
        if found != "a file":
            place = tuple(int(part) if part.isdecimal() else part for part in where.split("."))
            raise source.mismatch(place, expected=f"a file at {str(file)[:PATH_SHOWN_MAX]}", actual=found)
    for place, needs, found in unused(release, overrides, archs):
        raise Refused(
            Code.SETTINGS_INVALID,
            f"{source.at(place)}: {'.'.join(map(str, place))} would not be used: expected {needs}, found {found}; mend it or take it out",
        )
    return release


def _found_at(path: Path) -> str:
    """Return what is at this path, in words."""
    try:
        if path.is_file():
            return "a file"
        return "a folder" if path.is_dir() else "a device, pipe or socket" if path.exists() else "none"
    except OSError as error:  # A name that is longer than any, a folder that may not be looked into.
        return error.strerror or str(error)


@dataclass(frozen=True, slots=True)
class _Source:
    """Name where a statement is: the file and its line, or the command line."""

    path: Path | None
    text: str
    overrides: Mapping[str, Any]

    def at(self, place: Place) -> str:
        """Return the file, and the line unless the command line states it."""
        if self.path is None:
            return "what to publish"
        line = line_of(self.text, place) if at_place(self.overrides, place) is None else None
        return f"{self.path}, line {line}" if line is not None else str(self.path)

    def mismatch(self, place: Place, *, expected: object, actual: object) -> Refused:
        """Return a refusal of what is at this place."""
        return mismatch(Code.SETTINGS_INVALID, f"{self.at(place)}: {'.'.join(map(str, place))}", expected=expected, actual=actual)


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(BYTES_MAX + 1)
        if len(data) > BYTES_MAX:
            raise mismatch(Code.SETTINGS_INVALID, f"{path}: size", expected=f"at most {BYTES_MAX} bytes", actual="more")
        return data.decode()
    except OSError as error:
        raise Refused(Code.SETTINGS_INVALID, f"{path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise Refused(Code.SETTINGS_INVALID, f"{path} is not valid TOML: {str(error)[:200]}") from None


def _toml(path: Path, text: str) -> dict[str, Any]:
    try:
        return parse_toml(text)
    except ValueError as error:
        raise Refused(Code.SETTINGS_INVALID, f"{path} is not valid TOML: {str(error)[:200]}") from None


_PATHS = (
    *("model", "files", "reference.data", "golden.data", "accuracy.data", "accuracy.counts"),
    *("variants.held_out", "variants.calibration", "variant.model"),
)


def _rooted(fields: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Return the same with absolute paths; values that are not text are left for validation to report."""

    def whole(value: Any) -> Any:
        if isinstance(value, list):
            return [whole(one) for one in value]
        return str(folder / value) if isinstance(value, str) and value else value

    found = dict(fields)
    for table, _, key in (path.rpartition(".") for path in _PATHS):
        if not table and key in found:
            found[key] = whole(found[key])
        elif isinstance(found.get(table), dict) and key in found[table]:
            found[table] = {**found[table], key: whole(found[table][key])}
        elif isinstance(found.get(table), list):
            found[table] = [{**one, key: whole(one[key])} if isinstance(one, dict) and key in one else one for one in found[table]]
    return found


def _over(fields: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Join tables; any other value of the command line replaces the file's."""
    found = dict(fields)
    for key, value in overrides.items():
        there = found.get(key)
        found[key] = _over(there, value) if isinstance(value, Mapping) and isinstance(there, Mapping) else value
    return found


# Error texts


def _sentence(source: _Source, error: ValidationError) -> Refused:
    """Return a sentence about the first mistake, with what is allowed and what was found."""
    errors = error.errors(include_url=False)
    # A mistyped key is named first, before the key that is missing because of it.
    first = next((one for one in errors if one["type"] == "extra_forbidden"), errors[0])
    is_mistyped = first["type"] == "extra_forbidden"
    named = first["loc"][-1:] if is_mistyped else ()  # It is the file's own, whatever it looks like.
    within = first["loc"][:-1] if is_mistyped else first["loc"]
    place = (*(part for part in within if not (isinstance(part, str) and ("-" in part or "[" in part or part in _BRANCHES))), *named)
    if is_mistyped:
        fields = list(_model_at(first["loc"][:-1]).model_fields)
        meant = get_close_matches(str(place[-1]), fields, n=1)
        return mismatch(
            Code.SETTINGS_INVALID,
            f"{source.at(place)}: keys of {'.'.join(map(str, place[:-1])) or 'the release'}",
            expected=f"some of {', '.join(fields)}",
            actual=f"{place[-1]} (did you mean {meant[0]}?)" if meant else place[-1],
        )
    if first["type"] == "missing":
        where = source.at(place[:-1]) if len(place) > 1 else source.at(place)
        return mismatch(Code.SETTINGS_INVALID, f"{where}: {'.'.join(map(str, place))}", expected="a value", actual="none")
    if first["type"] == "value_error":
        return Refused(Code.SETTINGS_INVALID, f"{source.at(place)}: {'.'.join(map(str, place))}: {first['ctx']['error']}")
    if (wrong := wrong_text(first)) is not None:
        return Refused(Code.SETTINGS_INVALID, f"{source.at(place)}: {'.'.join(map(str, place))}: {wrong}")
    expected = re.sub(r"^(Input|Value|String|Tuple|Dictionary) should (be )?", "", first["msg"])
    return source.mismatch(place, expected=expected, actual=repr(first["input"])[:64])


_BRANCHES = {"float", "str", "int", "bool", "dict"}  # Names of a union's branches, which pydantic adds to the place of an error.


def _model_at(place: tuple[int | str, ...]) -> type[BaseModel]:
    model: type[BaseModel] = ReleaseFile
    for part in place:
        if isinstance(part, str) and part in model.model_fields:
            model = _model_in(model.model_fields[part].annotation) or model
    return model


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if get_origin(annotation) in (Union, UnionType, tuple, Annotated):
        return next((found for one in get_args(annotation) if (found := _model_in(one)) is not None), None)
    return None
