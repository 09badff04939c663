"""Sort a release's effective parameters by where they go. See schemas.parameters."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from node.core.inference.tensors import DTYPES, Raw, Spec, raw_of
from schemas.parameters import Parameters, Setting, Value


@dataclass(frozen=True, slots=True)
class EffectiveParameters:
    """Hold what is in force. `inputs` are fed where a request leaves them out; `telemetry_share` of requests is counted."""

    inputs: Mapping[str, Raw] = field(default_factory=dict)
    runtime: Mapping[str, Value] = field(default_factory=dict)
    client: Mapping[str, Value] = field(default_factory=dict)
    telemetry_share: float = 1.0


def effective_parameters(parameters: Parameters, settings: Sequence[Setting], inputs: Sequence[Spec]) -> EffectiveParameters:
    """Return where each value goes."""
    by_name = {parameter.name: parameter for parameter in parameters}
    sides: dict[str, dict[str, Value]] = {"input": {}, "runtime": {}, "client": {}, "telemetry": {}}
    for setting in settings:
        sides[by_name[setting.name].goes_to][setting.name] = setting.value
    fed = {spec.name: _fed(spec, sides["input"][spec.name]) for spec in inputs if spec.name in sides["input"]}
    share = min((float(value) for value in sides["telemetry"].values() if isinstance(value, float | int)), default=1.0)
    return EffectiveParameters(fed, sides["runtime"], sides["client"], share)


def _fed(spec: Spec, value: Value) -> Raw:
    shape = tuple(max(1, axis) for axis in spec.shape)
    return raw_of(spec.name, np.full(shape, value, DTYPES[spec.datatype]))
