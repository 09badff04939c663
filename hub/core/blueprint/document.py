"""Define what a blueprint may say: models with their deployments, and settings of nodes by selector. The JSON Schema is made from this."""

from typing import Annotated, Any, Final, Literal

from pydantic import Field, GetJsonSchemaHandler, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from hub.core.nodes.device_settings import LINKS
from schemas import limits
from schemas.deployments import PRIORITY_MAX
from schemas.device_settings import LinkBudget
from schemas.document import Fact
from schemas.names import Cohort, FleetName, Label, ModelName, NodeId, Version
from schemas.parameters import Value
from schemas.rollout import Gate

SCHEMA_ID: Final = "urn:fleetcast:blueprint:1"
DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
NODES_PER_RULE_MAX: Final = 10_000

SelectorText = Annotated[
    str,
    Field(min_length=1, max_length=limits.SELECTOR_CHARACTERS_MAX, description="Selector of nodes, such as site=jfk,tier!=lab."),
]
Times = Annotated[str, Field(max_length=256, description="Times of the week in a node's own zone, such as Mon-Fri 22:00-05:00.")]
Labels = Annotated[dict[Label, Label], Field(max_length=limits.LABELS_MAX)]
AllowEmpty = Annotated[bool, Field(description="Accept a selector that matches no known node.")]


class StageTerms(Fact):
    """Describe whom a stage adds: a percentage, or the nodes of a selector."""

    percent: Annotated[int, Field(ge=1, le=100, description="Share of the deployment's nodes.")] | None = None
    name: Annotated[Label, Field(description="Name of a stage that a selector makes.")] | None = None
    where: SelectorText | None = None
    approve: Annotated[bool, Field(description="Whether the stage waits for `fleetcast rollout approve`.")] = False

    @model_validator(mode="before")
    @classmethod
    def _of_number(cls, value: Any) -> Any:
        if isinstance(value, int) and not isinstance(value, bool):
            return {"percent": value}
        if not isinstance(value, dict):
            raise ValueError("a stage is a whole percentage such as 10, or has `where` with a selector and a `name`")
        return value

    @model_validator(mode="after")
    def _is_one_of_both(self) -> "StageTerms":
        if (self.percent is None) == (self.where is None):
            raise ValueError("a stage is a percentage such as 10, or has `where` with a selector and a `name`")
        if (self.name is None) != (self.where is None):
            raise ValueError("a stage with a selector has a `name`, and a percentage has none")
        return self

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Return the schema, in which a percentage may be a number alone."""
        return {"anyOf": [{"type": "integer", "minimum": 1, "maximum": 100}, handler(core)]}


class CarriageTerms(Fact):
    """Bound how a rollout's bytes travel."""

    bytes_max: Annotated[int, Field(ge=0, le=2**53, description="Most bytes that the rollout may cost one node.")] | None = None
    full_download: Annotated[bool, Field(description="Whether a node without a delta's parent may fetch the whole.")] | None = None
    priority: Annotated[int, Field(ge=0, le=9, description="Order among a node's transfers; the highest goes first.")] = 5


class DeploymentTerms(Fact):
    """State which nodes run which release, and how they get there when it changes."""

    where: SelectorText | None = None
    priority: Annotated[int, Field(ge=0, le=PRIORITY_MAX, description="The higher one decides first; 10 unless given.")] | None = None
    release: Annotated[Version, Field(description="Release that its nodes run. Left out, the blueprint does not decide it.")] | None = None
    parameters: Annotated[
        dict[Label, Value],
        Field(max_length=limits.PARAMETERS_MAX, description="Parameters of the release that differ from its own values."),
    ] = Field(default_factory=dict)
    pin: Annotated[bool, Field(description="Move all nodes at once, without stages or a gate.")] = False
    stages: (
        Annotated[tuple[StageTerms, ...], Field(min_length=1, max_length=limits.STAGES_MAX, description="Such as [1, 10, 100].")] | None
    ) = None
    gate: Annotated[Gate, Field(description="What must hold before the next stage.")] | None = None
    carriage: CarriageTerms | None = None
    activate: Annotated[Times, Field(description="When nodes may switch.")] | None = None
    fetch: Annotated[Times, Field(description="When nodes may fetch.")] | None = None
    deadline: (
        Annotated[str, Field(max_length=8, description="Time after its start in which nodes are moved, such as 36h or 7d.")] | None
    ) = None
    allow_empty: AllowEmpty = False


class ModelTerms(Fact):
    """State all deployments of one model: others of it are removed."""

    deployments: Annotated[dict[ModelName, DeploymentTerms], Field(max_length=limits.DEPLOYMENTS_MAX)]


class NodeRule(Fact):
    """Set something of the nodes that are named, or that a selector matches."""

    node: Annotated[tuple[NodeId, ...], Field(min_length=1, max_length=NODES_PER_RULE_MAX)] | None = None
    where: SelectorText | None = None
    labels: Labels = Field(default_factory=dict)
    cohort: Cohort | None = None
    telemetry: bool | None = None
    display_name: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    budgets: Annotated[dict[Literal["free", "metered", "roaming"], LinkBudget], Field(max_length=len(LINKS), default_factory=dict)]
    allow_empty: AllowEmpty = False

    @model_validator(mode="before")
    @classmethod
    def _of_name(cls, value: Any) -> Any:
        one = value.get("node") if isinstance(value, dict) else None
        if isinstance(one, str | list):
            return {**value, "node": (one,) if isinstance(one, str) else tuple(one)}
        return value

    @model_validator(mode="after")
    def _is_one_of_both(self) -> "NodeRule":
        if (self.node is None) == (self.where is None):
            raise ValueError("give either `node` with names, or `where` with a selector")
        if self.display_name is not None and not self.display_name.isprintable():
            raise ValueError("display_name must be printable")
        return self

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Return the schema, in which one node may be named without a list."""
        schema = handler(core)
        properties = handler.resolve_ref_schema(schema)["properties"]
        many = next(one for one in properties["node"]["anyOf"] if one.get("type") == "array")
        properties["node"]["anyOf"] = [many["items"], many]
        return schema


class Blueprint(Fact):
    """State what a fleet should be."""

    blueprint: Annotated[Literal[1], Field(description="Version of this format.")]
    fleet: Annotated[FleetName, Field(description="Name of the fleet; a blueprint of another one is refused.")] | None = None
    based_on: (
        Annotated[int, Field(ge=0, description="Revision that this file was made from, as `fleetcast blueprint` writes it.")] | None
    ) = None
    models: Annotated[
        dict[ModelName, ModelTerms], Field(max_length=limits.MODELS_MAX, description="Models. One that is not here is left alone.")
    ] = Field(default_factory=dict)
    nodes: (
        Annotated[
            tuple[NodeRule, ...],
            Field(max_length=limits.BLUEPRINT_RULES_MAX, description="Settings of nodes. Without this key they are left alone."),
        ]
        | None
    ) = None


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema by which editors check and complete a blueprint."""
    schema = _without_null(Blueprint.model_json_schema())
    return {"$schema": DIALECT, "$id": SCHEMA_ID, **schema, "title": "fleetcast blueprint"}


def _without_null(value: Any) -> Any:
    """Return the schema without null, which a blueprint nowhere has: a key without a value is mostly a variable that was not set."""
    if isinstance(value, list):
        return [_without_null(one) for one in value]
    if not isinstance(value, dict):
        return value
    found = {key: _without_null(one) for key, one in value.items() if not (key == "default" and one is None)}
    if "anyOf" in found:
        kinds = [one for one in found["anyOf"] if one != {"type": "null"}]
        if len(kinds) == 1:
            del found["anyOf"]
            return {**kinds[0], **found}
        found["anyOf"] = kinds
    return found
