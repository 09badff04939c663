"""Reads what an operator sets about a release by its rollout, within the bounds that its publisher allows. Knows no document or node."""

from collections.abc import Mapping, Sequence

from schemas.errors import Code, Refused, mismatch
from schemas.parameters import Parameter, Parameters, Value, check_value, unknown


def read(parameters: Parameters, given: Sequence[tuple[str, str]]) -> dict[str, Value]:
    """Return values as people write them, by name: `threshold` "0.7", or one entry of a map, `labels.cat` "Katze".

    Raises:
        Refused: PARAMETER_UNKNOWN or PARAMETER_BOUNDS, with both sides; a map that is given in part is judged when it is `settled`.
    """
    by_name = {parameter.name: parameter for parameter in parameters}
    found: dict[str, Value] = {}
    for name, text in given:
        parameter, key = _addressed(by_name, name)
        if isinstance(parameter.default, dict):
            entries = found.get(parameter.name)
            found[parameter.name] = {**(entries if isinstance(entries, dict) else {}), _key(parameter, key): text}
        else:
            found[parameter.name] = check_value(parameter, _number(parameter, text) if _is_number(parameter) else text)
    return found


def settled(
    parameters: Parameters, before: Mapping[str, Value], given: Mapping[str, Value], unset: Sequence[str] = ()
) -> dict[str, Value] | None:
    """Return what is set after these were given; a map that is given in part keeps its other entries. None when nothing is set.

    Raises:
        Refused: PARAMETER_UNKNOWN or PARAMETER_BOUNDS, with both sides.
    """
    if strange := unknown(parameters, {**dict.fromkeys(unset), **given}):
        raise _unknown(parameters, ", ".join(strange))
    after: dict[str, Value] = {}
    for parameter in parameters:
        name = parameter.name
        if name in given:
            value: object = given[name]
            if isinstance(parameter.default, dict) and isinstance(value, Mapping):
                kept = before.get(name, parameter.default)
                value = {**(kept if isinstance(kept, dict) else parameter.default), **value}
            after[name] = check_value(parameter, value)
        elif name in before and name not in unset:
            after[name] = before[name]
    return after or None


def in_words(name: str, value: Value) -> str:
    """Return a value as `read` takes it."""
    if isinstance(value, dict):
        return ", ".join(f"{name}.{key}={text}" for key, text in value.items())
    return f"{name}={value:g}" if isinstance(value, float | int) else f"{name}={value}"


def _addressed(by_name: Mapping[str, Parameter], name: str) -> tuple[Parameter, str | None]:
    if name in by_name:
        return by_name[name], None
    for at, letter in reversed(list(enumerate(name))):  # the longest name first: names and keys may hold dots
        if letter == "." and name[:at] in by_name and isinstance(by_name[name[:at]].default, dict):
            return by_name[name[:at]], name[at + 1 :]
    raise _unknown(tuple(by_name.values()), name)


def _unknown(parameters: Parameters, name: str) -> Refused:
    names = ", ".join(parameter.name for parameter in parameters) or "none"
    return mismatch(Code.PARAMETER_UNKNOWN, "parameters of the release", expected=names, actual=name[:128])


def _key(parameter: Parameter, key: str | None) -> str:
    keys = sorted(parameter.default) if isinstance(parameter.default, dict) else []
    if key is None or key not in keys:
        expected = f"{parameter.name}.KEY, KEY one of {', '.join(keys[:8])}"
        raise mismatch(Code.PARAMETER_BOUNDS, f"parameter {parameter.name!r}", expected=expected, actual=(key or "no key")[:64])
    return key


def _is_number(parameter: Parameter) -> bool:
    return isinstance(parameter.default, float | int)


def _number(parameter: Parameter, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise mismatch(Code.PARAMETER_BOUNDS, f"parameter {parameter.name!r}", expected="a number", actual=repr(text)[:64]) from None
