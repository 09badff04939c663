"""A release as its publisher writes it down: `release.toml`, parsed at the door. Knows what may stand there, not what the files are.

Every path is relative to the file's own folder. What a command line says beside it stands over it, field by field.
"""

import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Self, Union, get_args, get_origin

from pydantic import BaseModel, Field, ValidationError, model_validator

from hub.publish.publish_request import ACCURACY_EPSILON, ACCURACY_WINDOW_SECONDS, CALIBRATION_ROWS, DEFAULT_VARIANT, LOSS_MAX, Build, How
from schemas.document import Fact
from schemas.errors import Code, Refused, mismatch
from schemas.limits import BLOCK_BYTES_MAX, CALIBRATION_ROWS_MIN, KIB, MIB, RHO_DAY_MAX, TENSORS_MAX, VARIANTS_MAX, WINDOW_SECONDS_MAX
from schemas.manifest import Limits, Requirements, Tensor, Text
from schemas.names import Label, ModelName, Version
from schemas.parameters import Parameters
from schemas.signals import Season

BYTES_MAX = MIB  # a page of settings
SPARSITY = 0.5  # of a pruned build, where nothing is said
NAMED: Mapping[str, How] = {
    "fp32": "as-is",
    "original": "as-is",
    "int8": "int8",
    "int8-static": "int8-static",
    "int8-weights": "int8-weights",
    "fp16": "fp16",
    "pruned": "pruned",
}  # builds that need no more than their name

Columns = Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(min_length=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Sparsity = Annotated[float, Field(gt=0, lt=1)]


class ReferenceTable(Fact):
    """`[reference]`: what windows are compared with."""

    data: Path
    blocks: str | None = None
    columns: Columns | None = None
    signals: Columns | None = None
    time: str | None = None
    season: Season = Season(hours=4, weekends=True)


class GoldenTable(Fact):
    """`[golden]`: what a device has to answer before it serves; `data` is an npz, or prompts in TOML or JSON."""

    data: Path | None = None
    relative_tolerance: Share | None = None
    absolute_tolerance: Annotated[float, Field(ge=0)] | None = None
    text_agreement_min: Annotated[float, Field(gt=0, le=1)] | None = None


class PrivacyTable(Fact):
    """`[privacy]`: what a record in a window is promised."""

    epsilon: Annotated[float, Field(gt=0, le=64)] = 1.0
    delta: Annotated[float, Field(gt=0, lt=1)] = 1e-6
    window_seconds: Annotated[int, Field(ge=1, le=WINDOW_SECONDS_MAX)] = 3600
    noise: Literal["gaussian", "laplace"] = "gaussian"
    calibration_rows: Annotated[int, Field(ge=0)] | None = None  # 0: nodes are to have no baseline of their own
    rho_day_max: Annotated[float, Field(gt=0)] = RHO_DAY_MAX  # that nodes' settings allow: an own baseline must fit it beside a window

    @model_validator(mode="after")
    def _calibrates_or_not(self) -> Self:
        if self.calibration_rows is not None and 0 < self.calibration_rows < CALIBRATION_ROWS_MIN:
            raise ValueError(f"calibration_rows must be 0 or at least {CALIBRATION_ROWS_MIN}")
        return self

    def own_rows(self, *, watches: bool) -> int | None:
        """Rows after which a node has a baseline of its own; where nothing is said, those of a release that watches something."""
        if self.calibration_rows is None:
            return CALIBRATION_ROWS if watches else None
        return self.calibration_rows or None


class AccuracyTable(Fact):
    """`[accuracy]`: what is known of right and wrong answers, for sites that learn the truth later.

    By `truth`, a column of held-out rows (`data`, else the reference's), with their `blocks`; or by `counts`, a CSV with the columns right
    and wrong, a row a block.
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
            raise ValueError("either truth, a column of rows, or counts, a file of right and wrong answers, has to be said")
        if self.counts is not None and any(one is not None for one in (self.data, self.blocks, self.output, self.right_within)):
            raise ValueError("data, blocks, output and right_within are of rows with their truth, and go with no counts")
        return self


class VariantsTable(Fact):
    """`[variants]`: which builds in order of preference, each by the name of its `[[variant]]` or by one that says how; terms for all."""

    builds: Annotated[tuple[str, ...], Field(max_length=VARIANTS_MAX)] = ()
    loss_max: Annotated[float, Field(ge=0, le=1)] = LOSS_MAX
    all_or_none: bool = False
    held_out: Path | None = None
    truth: str | None = None
    output: str | None = None
    calibration: Path | None = None
    sparsity: Sparsity = SPARSITY


class VariantTable(Fact):
    """`[[variant]]`: one build, and what a device must have for it. `build` says how it is made, by default as its name does."""

    name: Label
    build: Annotated[str, Field(min_length=1)] | None = None
    model: Path | None = None
    sparsity: Sparsity | None = None
    requirements: Requirements = Requirements()

    @model_validator(mode="after")
    def _known(self) -> Self:
        if self.build is None and self.model is None and self.name not in NAMED:
            raise ValueError(f"build must be said for the name {self.name!r}: one of {', '.join(NAMED)}, or model")
        if self.build is not None and self.build not in NAMED:
            raise ValueError(f"build must be one of {', '.join(NAMED)}")
        return self


class ReleaseFile(Fact):
    """The whole. A command line alone is one as well, without a file."""

    name: ModelName
    version: Version
    model: Path
    files: tuple[Path, ...] = ()
    licence: Annotated[str, Field(max_length=64)] = ""
    description: Text = ""
    parent: Version | None = None
    runtime: Label | None = None
    block_bytes: Annotated[int, Field(ge=KIB, le=BLOCK_BYTES_MAX)] | None = None
    inputs: Annotated[tuple[Tensor, ...], Field(min_length=1, max_length=TENSORS_MAX)] | None = None
    outputs: Annotated[tuple[Tensor, ...], Field(min_length=1, max_length=TENSORS_MAX)] | None = None
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
        """In order of preference: those that `variants.builds` names, or every `[[variant]]`; one build as it is, where nothing is said."""
        listed = {one.name: one for one in self.variant}
        named = self.variants.builds or [one.name for one in self.variant]
        return tuple(self._build(listed.get(name) or VariantTable(name=name)) for name in named) or (Build(DEFAULT_VARIANT),)

    def paths(self) -> Iterator[tuple[str, Path]]:
        """Every file that is named, and where."""
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


def read_release(path: Path | None, said: Mapping[str, Any]) -> ReleaseFile:
    """What stands in the file with what the command line says over it; paths of both are made whole.

    Raises:
        Refused: SETTINGS_INVALID: unreadable, no TOML, an unknown key, a wrong type, a missing value, a file that is not there.
    """
    what = str(path) if path is not None else "what to publish"
    fields = _over(_rooted(_toml(path), path.parent), said) if path is not None else dict(said)
    try:
        release = ReleaseFile.model_validate_json(json.dumps(fields, default=str), strict=True)
    except ValidationError as error:
        raise _sentence(what, error) from None
    known = {**dict.fromkeys(one.name for one in release.variant), **dict.fromkeys(NAMED)}
    unknown = [name for name in release.variants.builds if name not in known]
    if unknown:
        raise mismatch(Code.SETTINGS_INVALID, f"{what}: variants.builds", expected=f"some of {', '.join(known)}", actual=unknown[0])
    for where, file in release.paths():
        if not file.is_file():
            found = "a folder" if file.is_dir() else "a device, pipe or socket" if file.exists() else "none"
            raise mismatch(Code.SETTINGS_INVALID, f"{what}: {where}", expected=f"a file at {file}", actual=found)
    return release


def _toml(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            data = file.read(BYTES_MAX + 1)
        if len(data) > BYTES_MAX:
            raise mismatch(Code.SETTINGS_INVALID, f"{path}: size", expected=f"at most {BYTES_MAX} bytes", actual="more")
        return tomllib.loads(data.decode())
    except OSError as error:
        raise Refused(Code.SETTINGS_INVALID, f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise Refused(Code.SETTINGS_INVALID, f"{path} is no TOML: {str(error)[:200]}") from None


_PATHS = (
    *("model", "files", "reference.data", "golden.data", "accuracy.data", "accuracy.counts"),
    *("variants.held_out", "variants.calibration", "variant.model"),
)


def _rooted(fields: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The same with every path made whole; what is no text is left for the check to find."""

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


def _over(fields: Mapping[str, Any], said: Mapping[str, Any]) -> dict[str, Any]:
    """Tables are joined; anything else that is said takes the place of what stands there."""
    found = dict(fields)
    for key, value in said.items():
        there = found.get(key)
        found[key] = _over(there, value) if isinstance(value, Mapping) and isinstance(there, Mapping) else value
    return found


# Sentences


def _sentence(what: str, error: ValidationError) -> Refused:
    """The first mistake, with what may stand there and what does."""
    errors = error.errors(include_url=False)
    first = next((one for one in errors if one["type"] == "extra_forbidden"), errors[0])  # of a mistyped key, not that the right one lacks
    place = [part for part in first["loc"] if not (isinstance(part, str) and ("-" in part or "[" in part or part in _BRANCHES))]
    where = ".".join(map(str, place))
    match first["type"]:
        case "extra_forbidden":
            fields = list(_model_at(first["loc"][:-1]).model_fields)
            meant = get_close_matches(str(place[-1]), fields, n=1)
            return mismatch(
                Code.SETTINGS_INVALID,
                f"{what}: keys of {'.'.join(map(str, place[:-1])) or 'the release'}",
                expected=f"some of {', '.join(fields)}",
                actual=f"{place[-1]} (did you mean {meant[0]}?)" if meant else place[-1],
            )
        case "missing":
            return mismatch(Code.SETTINGS_INVALID, f"{what}: {where}", expected="a value", actual="none")
        case "value_error":
            return Refused(Code.SETTINGS_INVALID, f"{what}: {where}: {first['ctx']['error']}")
    expected = re.sub(r"^(Input|Value|String|Tuple|Dictionary) should (be )?", "", first["msg"])
    return mismatch(Code.SETTINGS_INVALID, f"{what}: {where}", expected=expected, actual=repr(first["input"])[:64])


_BRANCHES = {"float", "str", "int", "bool", "dict"}  # of a union, which pydantic puts into the place of an error


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
