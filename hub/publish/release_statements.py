"""Find what a release file says and nothing would use, and the line on which it says so: a statement is used or refused."""

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from fleetcast.toml_text import parse_toml
from hub.publish.publish_request import FILES, ONNX, RUNTIMES

if TYPE_CHECKING:
    from hub.publish.release_file import ReleaseFile, VariantTable

Place = tuple[str | int, ...]
# What `uname -m` says on machines that run Linux and ONNX Runtime or LiteRT.
ARCHS: Final = frozenset(
    {"aarch64", "armv6l", "armv7l", "armv8l", "i386", "i586", "i686", "loongarch64", "ppc64le", "riscv64", "s390x", "x86_64"}
)
LOCATED_CHARACTERS_MAX: Final = 64 * 1024  # Each step reads the beginning of the text anew.
PARSED_MAX: Final = 100
OTHER_NAMES: Final = {"arm64": "aarch64", "amd64": "x86_64", "x64": "x86_64", "armhf": "armv7l", "armv7": "armv7l", "x86": "i686"}


def unused(release: "ReleaseFile", overrides: Mapping[str, Any], archs: Callable[[], frozenset[str]]) -> Iterator[tuple[Place, str, str]]:
    """Yield the place of each statement that nothing would use, what would make it useful, and what is there instead.

    `archs` are those that devices of the fleet have reported; they are asked for only if one is not known otherwise.
    """
    yield from _of_variants(release, overrides, archs)
    yield from _of_telemetry(release)
    yield from _of_golden(release)


def _of_variants(
    release: "ReleaseFile", overrides: Mapping[str, Any], archs: Callable[[], frozenset[str]]
) -> Iterator[tuple[Place, str, str]]:
    builds, names = release.builds, [one.name for one in release.variant]
    listed = release.variants.builds if "builds" not in overrides.get("variants", {}) else ()  # The command line may choose some of them.
    for number, one in enumerate(release.variant):
        if one.name in names[:number]:
            yield ("variant", number), "a name that no [[variant]] before it has", one.name
        if listed and one.name not in listed:
            yield ("variant", number), f"a name that variants.builds lists ({', '.join(listed)})", one.name
        yield from _of_requirements(number, one, archs, onnx=_runs_as(release) == ONNX)
    made = [one for one in builds if one.how != "as-is" or one.model_path is not None or one.sparsity]
    stated = release.variants.model_fields_set
    if "sparsity" in stated and not any(one.how == "pruned" for one in builds):
        yield ("variants", "sparsity"), "a build `pruned`, to which it applies", "none"
    if release.variants.calibration is not None and not any(one.how == "int8-static" for one in builds):
        yield ("variants", "calibration"), "a build `int8-static`, which takes its ranges from it", "none"
    if "loss_max" in stated and not made:
        yield ("variants", "loss_max"), "a build that is measured against the original", "none"
    if release.variants.output is not None and not made and release.variants.held_out is None:
        yield ("variants", "output"), "held_out, or a build that is measured", "neither"


def _of_requirements(
    number: int, one: "VariantTable", archs: Callable[[], frozenset[str]], *, onnx: bool
) -> Iterator[tuple[Place, str, str]]:
    place: Place = ("variant", number, "requirements")
    for arch in one.requirements.arch:
        if arch not in ARCHS and arch not in archs():
            meant = f"{OTHER_NAMES[arch.lower()]}, as `uname -m` says there" if arch.lower() in OTHER_NAMES else ", ".join(sorted(ARCHS))
            yield (*place, "arch"), f"what a device has: {meant}", arch
    if one.requirements.providers and onnx:
        from hub.publish.onnx_model import known_providers  # noqa: PLC0415  # onnxruntime takes a while to import.

        for provider in one.requirements.providers:
            if provider not in known_providers():
                yield (*place, "providers"), f"providers of ONNX Runtime: {', '.join(known_providers())}", provider


def _of_telemetry(release: "ReleaseFile") -> Iterator[tuple[Place, str, str]]:
    stated, watches = release.privacy.model_fields_set, release.reference is not None
    own_rows = release.privacy.own_rows(watches=watches)
    counted = watches or own_rows is not None
    if "delta" in stated and release.privacy.noise == "laplace":
        yield ("privacy", "delta"), "noise = 'gaussian'; with laplace it is 0", "laplace"
    for name in ("epsilon", "window_seconds"):
        if name in stated and not counted:
            yield ("privacy", name), "a reference, or calibration_rows, so that something is counted", "neither"
    for name in ("delta", "noise"):
        if name in stated and not counted and release.accuracy is None:
            yield ("privacy", name), "a reference, calibration_rows or [accuracy], so that something is counted", "none of them"
    if "rho_day_max" in stated and own_rows is None:
        yield ("privacy", "rho_day_max"), "nodes with baselines of their own (calibration_rows)", "none"
    if release.reference is not None and release.reference.time is None and "season" in release.reference.model_fields_set:
        yield ("reference", "season"), "time, the column that says when a row was", "none"


def _of_golden(release: "ReleaseFile") -> Iterator[tuple[Place, str, str]]:
    golden, runs_as = release.golden, _runs_as(release)
    proves = golden.data is not None or (runs_as == ONNX and golden.proof)
    for name in sorted(golden.model_fields_set - {"data", "proof"}):
        if not proves and getattr(golden, name) is not None:
            yield ("golden", name), "golden inputs, whose answers it is for", "none"
    if release.fix_shapes and runs_as != ONNX:
        yield ("fix_shapes",), "an ONNX model", f"one that is run as {runs_as!r}"
    if release.state_joining and runs_as != ONNX:
        yield ("state_joining",), "an ONNX model", f"one that is run as {runs_as!r}"
    if runs_as == FILES and "text_agreement_min" in golden.model_fields_set:
        yield ("golden", "text_agreement_min"), "a model that a runtime runs", "files"


def _runs_as(release: "ReleaseFile") -> str:
    return release.runtime or RUNTIMES.get(release.model.suffix.lower(), FILES)


# Lines


def line_of(text: str, place: Place) -> int | None:
    """Return the line, from 1, on which TOML text states what is at this place; None if it does not.

    The standard library's parser does not say where it found a key. So the shortest beginning of the text is looked for that has it; in a
    very long text it is not.
    """
    if len(text) > LOCATED_CHARACTERS_MAX or not _states(text, place):
        return None
    lines = text.splitlines(keepends=True)
    low, high, parsed = 0, len(lines), 0
    while high - low > 1:
        middle = (low + high) // 2
        states, at = None, middle
        for at in (*range(middle, low, -1), *range(middle + 1, high)):
            parsed += 1
            if parsed > PARSED_MAX:
                return None
            states = _states("".join(lines[:at]), place)
            if states is not None:
                break
        if states is None:
            break  # One statement takes all lines in between.
        low, high = (low, at) if states else (at, high)
    first = (number for number in range(low, high) if lines[number].strip() and not lines[number].lstrip().startswith("#"))
    return next(first, high - 1) + 1


def _states(text: str, place: Place) -> bool | None:
    """Return whether this beginning of the text has something at this place; None if it ends within a statement."""
    try:
        found: Any = parse_toml(text)
    except ValueError:
        return None
    return at_place(found, place) is not None


def at_place(fields: Any, place: Place) -> Any:
    """Return what is at this place of nested tables and arrays; None if nothing is."""
    for part in place:
        try:
            fields = fields[part]
        except (KeyError, IndexError, TypeError):
            return None
    return fields
