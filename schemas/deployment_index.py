"""Define the index of deployments: for each model, which nodes its deployments select. It tells a node which topics concern it.

Nobody signs the index, because it decides nothing: a broker that lies in it withholds a topic or wastes a subscription, and it can do both
without it. What a node follows is the signed statement on `deploy/<model>`.
"""

from collections.abc import Iterable, Mapping
from typing import Annotated, NamedTuple, Self

from pydantic import Field, model_validator

from schemas import limits
from schemas.deployments import Deployments
from schemas.document import Document
from schemas.names import ModelName
from schemas.selectors import EVERYBODY, NodeFacts, Selector, matches

RoleVersion = Annotated[int, Field(ge=0, lt=2**53)]


class ModelSelectors(NamedTuple):
    """List the selectors of a model's deployments, without repetition; one for everybody is listed alone."""

    model: ModelName
    selectors: Annotated[tuple[Selector, ...], Field(min_length=1, max_length=limits.DEPLOYMENTS_MAX)]


class DeploymentIndex(Document):
    """List models with the selectors of their deployments, and the newest versions of root and targets. All of it is a hint."""

    schema_name = "deployment-index"
    bytes_max = limits.DEPLOYMENT_INDEX_BYTES_MAX
    decoded_bytes_max = limits.DEPLOYMENT_INDEX_DECODED_BYTES_MAX
    values_max = limits.DEPLOYMENT_INDEX_VALUES_MAX

    root: RoleVersion
    targets: RoleVersion
    models: Annotated[tuple[ModelSelectors, ...], Field(max_length=limits.MODELS_MAX)] = ()

    @model_validator(mode="after")
    def _is_in_order(self) -> Self:
        names = [one.model for one in self.models]
        if names != sorted(set(names)):
            raise ValueError("models are not in the order of their names, each once")
        return self


def selectors_of(statement: Deployments) -> tuple[Selector, ...]:
    """Return which nodes a model's deployments select, as the index lists it."""
    found = tuple(sorted({deployment.selector for deployment in statement.deployments}))
    return (EVERYBODY,) if EVERYBODY in found else found


def index_of(statements: Iterable[Deployments], *, root: int, targets: int) -> DeploymentIndex:
    """Return the index of these statements. It stays the same while rollouts only go on."""
    found = {one.model: selectors for one in statements if (selectors := selectors_of(one))}
    return DeploymentIndex(root=root, targets=targets, models=tuple(ModelSelectors(model, found[model]) for model in sorted(found)))


def concerns(index: DeploymentIndex, node: NodeFacts) -> Mapping[str, bool]:
    """Return every listed model, and whether one of its deployments selects this node."""
    return {one.model: any(matches(selector, node) for selector in one.selectors) for one in index.models}
