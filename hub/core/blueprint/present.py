"""Hold what a fleet is, as far as a blueprint speaks of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from hub.core.nodes.device_settings import Chosen, labels_after
from hub.core.rollouts.deployments import Model
from schemas.parameters import Parameters
from schemas.rollout import ReleaseRef
from schemas.selectors import NodeFacts
from schemas.state import State


@dataclass(frozen=True, slots=True)
class ReleaseFacts:
    """Hold what a blueprint may ask of a release."""

    ref: ReleaseRef
    parameters: Parameters = ()
    has_shadow: bool = False


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """Hold a model's deployments as they are signed, its versions, and its releases by version, as far as somebody asked for them."""

    model: Model
    versions: Sequence[str] = ()
    releases: Mapping[str, ReleaseFacts] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class NodeFound:
    """Hold a node: what the hub sets of it, and what it reported; None where it is enrolled and has never reported."""

    name: str
    chosen: Chosen
    state: State | None = None

    @property
    def facts(self) -> NodeFacts | None:
        """Return what selectors ask of it now."""
        return self.facts_after(self.chosen)

    def facts_after(self, after: Chosen) -> NodeFacts | None:
        """Return what selectors ask of it once the hub sets this; None where it has never reported."""
        if self.state is None:
            return None
        profile = self.state.profile
        return NodeFacts(self.name, labels_after(self.state, self.chosen, after), profile.arch if profile is not None else "")


@dataclass(frozen=True, slots=True)
class Present:
    """Hold what is."""

    fleet: str
    models: Mapping[str, ModelFacts]
    nodes: Mapping[str, NodeFound]

    @property
    def facts(self) -> list[NodeFacts]:
        """Return what selectors ask of every node that has reported."""
        return [found for one in self.nodes.values() if (found := one.facts) is not None]
