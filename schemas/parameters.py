"""Define parameters: what may be set for a release where it runs, within the bounds that its publisher allows."""

import math
from collections.abc import Mapping
from typing import Annotated, Literal, NamedTuple, Self

from pydantic import Field, model_validator

from schemas import limits
from schemas.document import Fact
from schemas.errors import Code, Refused, mismatch
from schemas.names import Label

Text = Annotated[str, Field(max_length=limits.PARAMETER_TEXT_MAX)]
Value = float | Text | Annotated[dict[Label, Text], Field(max_length=limits.PARAMETER_ENTRIES_MAX)]
Number = Annotated[float, Field(allow_inf_nan=False)]
# Parameters of runtimes that count something: half a token is a mistake, which a runtime would cut off.
WHOLE_NAMES = frozenset({"max_tokens", "context_tokens", "top_k", "seed"})
Source = Literal["release", "rollout", "site"]


class Parameter(Fact):
    """Describe one value that an operator sets by rollout and a site by its own file; the site's value wins.

    `goes_to`: `input`, the model's input of that name, if a request omits it; `runtime`, the runtime of the model; `client`, the
    local program, in the parameters of every answer; `telemetry`, the share of requests that is counted.
    A map's keys are those of its default: a label map renames classes and adds none.
    """

    name: Label
    goes_to: Literal["input", "runtime", "client", "telemetry"]
    default: Value
    min: Number | None = None
    max: Number | None = None
    choices: Annotated[tuple[Text, ...], Field(max_length=limits.PARAMETER_ENTRIES_MAX)] | None = None
    site: bool = True  # Whether a site may set it.

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        number = isinstance(self.default, float | int)
        if number and (self.min is None or self.max is None or self.min > self.max):
            raise ValueError(f"parameter {self.name!r}: a number needs bounds, min and max")
        if number and self.choices is not None:
            raise ValueError(f"parameter {self.name!r}: a number has bounds, not choices")
        if not number and (self.min is not None or self.max is not None):
            raise ValueError(f"parameter {self.name!r}: only a number has bounds")
        if self.goes_to == "telemetry" and not (
            number and self.min is not None and self.max is not None and 0 <= self.min <= self.max <= 1
        ):
            raise ValueError(f"parameter {self.name!r}: a share of requests is between 0 and 1")
        if self.goes_to == "input" and not number:
            raise ValueError(f"parameter {self.name!r}: a parameter for an input must be a number")
        try:
            check_value(self, self.default)
        except Refused as refusal:
            raise ValueError(refusal.reason) from None
        return self


Parameters = Annotated[tuple[Parameter, ...], Field(max_length=limits.PARAMETERS_MAX)]


class Setting(NamedTuple):
    """Report a parameter in force on a node, and its source."""

    name: Label
    value: Value
    source: Source
    code: Annotated[str, Field(max_length=64)] | None = None  # Why the site's own value is not in force.


def check_value(parameter: Parameter, value: object) -> Value:
    """Return `value` if the parameter allows it.

    Raises:
        Refused: PARAMETER_BOUNDS, with what is allowed and what was found.
    """
    what = f"parameter {parameter.name!r}"
    if isinstance(parameter.default, float | int):
        if isinstance(value, bool) or not isinstance(value, float | int) or not math.isfinite(value):
            raise mismatch(Code.PARAMETER_BOUNDS, what, expected="a number", actual=repr(value)[:64])
        low, high = parameter.min, parameter.max
        if (low is not None and value < low) or (high is not None and value > high):
            raise mismatch(Code.PARAMETER_BOUNDS, what, expected=f"{low:g} to {high:g}", actual=f"{value:g}")
        if parameter.goes_to == "runtime" and parameter.name in WHOLE_NAMES and value % 1:
            raise mismatch(Code.PARAMETER_BOUNDS, what, expected="a whole number", actual=f"{value:g}")
        return value
    if isinstance(parameter.default, str):
        return _text(what, parameter, value)
    if not isinstance(value, Mapping) or set(value) != set(parameter.default):
        actual = sorted(map(str, value))[:8] if isinstance(value, Mapping) else repr(value)[:64]
        raise mismatch(Code.PARAMETER_BOUNDS, what, expected=f"a map of {sorted(parameter.default)[:8]}", actual=actual)
    return {str(key): _text(f"{what}, {key!r}", parameter, text) for key, text in value.items()}


def _text(what: str, parameter: Parameter, value: object) -> str:
    if not isinstance(value, str) or len(value) > limits.PARAMETER_TEXT_MAX:
        raise mismatch(Code.PARAMETER_BOUNDS, what, expected=f"text of at most {limits.PARAMETER_TEXT_MAX}", actual=repr(value)[:64])
    if parameter.choices is not None and value not in parameter.choices:
        raise mismatch(Code.PARAMETER_BOUNDS, what, expected=f"one of {', '.join(parameter.choices[:8])}", actual=value[:64])
    return value


def settings(parameters: tuple[Parameter, ...], *, rollout: Mapping[str, object], site: Mapping[str, object]) -> tuple[Setting, ...]:
    """Return the values in force: the site's, else the rollout's, else the release's own.

    A value out of bounds is skipped, with its code.
    """
    found = []
    for parameter in parameters:
        value, source, code = parameter.default, "release", None
        for values, by in ((rollout, "rollout"), (site, "site")):
            if parameter.name not in values:
                continue
            if by == "site" and not parameter.site:
                code = str(Code.PARAMETER_BOUNDS)
                continue
            try:
                value, source = check_value(parameter, values[parameter.name]), by
            except Refused as refusal:
                code = str(refusal.code)
        found.append(Setting(parameter.name, value, source, code))  # type: ignore[arg-type]  # a literal of the two above
    return tuple(found)


def unknown(parameters: tuple[Parameter, ...], values: Mapping[str, object]) -> list[str]:
    """Return the names that the release does not have."""
    return sorted(set(values) - {parameter.name for parameter in parameters})
