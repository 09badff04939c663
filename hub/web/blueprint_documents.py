"""Define what the API answers with about blueprints."""

from typing import Annotated, Any, Literal

from pydantic import Field

from hub.web.documents import Shown


class BlueprintShown(Shown):
    """Say which blueprint is in force, and whether the fleet is as it says."""

    revision: int | None
    differences: int | None
    text: str


class BlueprintText(Shown):
    """Hold the text of a blueprint."""

    blueprint: str


class RevisionShown(Shown):
    """Describe a blueprint that was applied."""

    revision: int
    at: str
    actor: str
    state: str
    in_force: bool
    changes: str
    what: str


class ChangePlanned(Shown):
    """Describe what an apply would change; `held` says why it cannot be made as it stands."""

    kind: str
    model: str | None = None
    deployment: str | None = None
    nodes: list[str] | None = None
    text: str
    held: str | None
    changed_by: str | None


class BlueprintDiff(Shown):
    """Describe what differs between a blueprint and the fleet, and what it costs to apply it."""

    blueprint: str
    revision_in_force: int | None
    differs: bool
    changes: list[ChangePlanned]
    moved: Annotated[list[dict[str, Any]], Field(description="Nodes that get another release: model, from, to, nodes, bytes, unfit.")]
    bytes: int
    notes: list[str]
    terms: Annotated[
        list[str], Field(description="Terms that differ from those on which a rollout began; they count from the next one on.")
    ]
    stale: Annotated[str | None, Field(description="The blueprint was made from an older revision than the one in force.")]
    seen: Annotated[str, Field(description="Names these changes: an apply with it makes these, or none.")]


class ChangeMade(Shown):
    """Describe a change that was made."""

    number: int
    of: int
    text: str


class ApplicationShown(Shown):
    """Describe an apply: what it has done so far, and how it ended."""

    id: str
    state: Literal["applying", "applied", "refused"]
    revision: int | None
    changes: int
    done: list[ChangeMade]
    code: str
    text: str
