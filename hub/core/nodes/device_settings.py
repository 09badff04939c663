"""Decide what the hub sets of a node: read what operators ask, and merge it with what is set."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final

from pydantic import Field, ValidationError, model_validator

from schemas import limits
from schemas.deployments import Deployment, deciding
from schemas.device_settings import DeviceSettings, LinkBudget
from schemas.document import Fact
from schemas.errors import Code, Refused
from schemas.names import Cohort, Label, NodeId
from schemas.patterns import reason_of
from schemas.selectors import RESERVED_KEYS, NodeFacts
from schemas.state import State

KIND: Final = "node_settings"  # The kind of the command in the queue.
LINKS: Final = ("free", "metered", "roaming")
LINK_FIELDS: Final = ("bytes_day_max", "hours", "full_download")
SCALARS: Final = ("cohort", "telemetry", "display_name")
UNSET_MAX: Final = 64
REPORTED_SERIAL_MAX: Final = 2**40  # A serial counts changes, from 1: nothing that is true comes near.
_LABEL, _BUDGET = "label.", "budget."


class SetNodeSettings(Fact):
    """Change what the hub sets of one node, or of all that a selector matches. What is not named stays as it is."""

    node: NodeId | None = None
    where: Annotated[str, Field(max_length=limits.SELECTOR_CHARACTERS_MAX)] | None = None
    labels: Annotated[dict[Label, Label], Field(max_length=limits.LABELS_MAX, default_factory=dict)]
    cohort: Cohort | None = None
    telemetry: bool | None = None
    display_name: Annotated[str, Field(max_length=64)] | None = None
    budgets: Annotated[dict[Label, LinkBudget], Field(max_length=len(LINKS), default_factory=dict)]
    unset: Annotated[tuple[Annotated[str, Field(max_length=80)], ...], Field(max_length=UNSET_MAX)] = ()
    if_serial: Annotated[int, Field(ge=0)] | None = None  # Serial of the one node's settings that the asker has seen.
    breaking: bool = False  # Set labels although programs would not work with the release that their node then gets.
    why: Annotated[str, Field(max_length=500)] | None = None  # The asker's reason, kept with what is done.

    @property
    def changes_labels(self) -> bool:
        """Return whether it may change which deployment decides for a node."""
        return bool(self.labels) or any(name == "labels" or name.startswith(_LABEL) for name in self.unset)

    @model_validator(mode="after")
    def _is_possible(self) -> "SetNodeSettings":
        if (self.node is None) == (self.where is None):
            raise ValueError("either a node or a selector says which nodes")
        if self.if_serial is not None and self.node is None:
            raise ValueError("if_serial is for the settings of one node")
        if unknown := sorted(self.budgets.keys() - set(LINKS)):
            raise ValueError(f"budget {unknown[0]!r} is none of {', '.join(LINKS)}")
        if reserved := sorted(self.labels.keys() & set(RESERVED_KEYS)):
            raise ValueError(f"{reserved[0]!r} is no label: a device says it itself")
        if self.display_name is not None and not self.display_name.isprintable():
            raise ValueError("display_name must be printable")
        for name in self.unset:
            _check_unset(name)
        return self


def _check_unset(name: str) -> None:
    if name in SCALARS or name in {"labels", "budgets"} or name.startswith(_LABEL):
        return
    link, _, field = name.removeprefix(_BUDGET).partition(".")
    if not name.startswith(_BUDGET) or link not in LINKS or field not in {"", *LINK_FIELDS}:
        raise ValueError(f"{name!r} is no setting of a node")


def read(body: str) -> SetNodeSettings:
    """Read a command's body from the queue.

    Raises:
        Refused: SETTINGS_INVALID, naming the field.
    """
    try:
        return SetNodeSettings.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise Refused(Code.SETTINGS_INVALID, f"{where + ': ' if where else ''}{reason_of(first).removeprefix('Value error, ')}") from None


def body_of(command: SetNodeSettings) -> str:
    """Return a command's body in the queue: only what was given."""
    return command.model_dump_json(exclude_unset=True)


@dataclass(frozen=True, slots=True)
class Chosen:
    """Hold what the hub sets of a node, without what makes a document of it."""

    labels: Mapping[str, str]
    cohort: str | None = None
    telemetry: bool | None = None
    display_name: str | None = None
    budgets: Mapping[str, LinkBudget] | None = None

    @classmethod
    def of(cls, document: DeviceSettings | None) -> "Chosen":
        """Return what a document sets."""
        if document is None:
            return cls({}, budgets={})
        one = document
        return cls(dict(one.labels or {}), one.cohort, one.telemetry, one.display_name, dict(one.budgets or {}))


def change_of(before: Chosen, after: Chosen) -> dict[str, Any]:
    """Return what differs between two settings, for the history; what is not set is None."""
    then, now = _shown(before), _shown(after)
    differing = [name for name in {**then, **now} if then.get(name) != now.get(name)]
    return {side: {name: found.get(name) for name in differing} for side, found in (("before", then), ("after", now))}


def _shown(one: Chosen) -> dict[str, Any]:
    labels = {f"{_LABEL}{key}": value for key, value in one.labels.items()}
    budgets = {f"budget.{link}": budget.model_dump(mode="json", exclude_none=True) for link, budget in (one.budgets or {}).items()}
    return {**labels, "cohort": one.cohort, "telemetry": one.telemetry, "display_name": one.display_name, **budgets}


def merged(before: Chosen, wish: SetNodeSettings) -> Chosen:
    """Return what is set after a command. What is unset is as the device's own file says.

    Raises:
        Refused: SETTINGS_INVALID: there would be more labels than a node may have.
    """
    gone = set(wish.unset)
    labels = {} if "labels" in gone else {key: value for key, value in before.labels.items() if f"{_LABEL}{key}" not in gone}
    labels |= wish.labels
    if len(labels) > limits.LABELS_MAX:
        raise Refused(Code.SETTINGS_INVALID, f"a node may have {limits.LABELS_MAX} labels, these would be {len(labels)}")
    budgets = {} if "budgets" in gone else dict(before.budgets or {})
    for link in LINKS:
        if found := _budget(budgets.get(link), wish.budgets.get(link), link, gone):
            budgets[link] = found
        else:
            budgets.pop(link, None)
    scalars = {name: None if name in gone else getattr(before, name) for name in SCALARS}
    scalars |= {name: getattr(wish, name) for name in SCALARS if getattr(wish, name) is not None}
    return Chosen(labels=labels, budgets=budgets, **scalars)


def _budget(before: LinkBudget | None, wish: LinkBudget | None, link: str, gone: set[str]) -> LinkBudget | None:
    fields = before.model_dump(exclude_none=True) if before is not None and f"{_BUDGET}{link}" not in gone else {}
    fields = {name: value for name, value in fields.items() if f"{_BUDGET}{link}.{name}" not in gone}
    fields |= wish.model_dump(exclude_none=True) if wish is not None else {}
    return LinkBudget(**fields) if fields else None


def document_of(node: str, chosen: Chosen, *, serial: int, expires: int, key_refused: bytes | None = None) -> DeviceSettings:
    """Return what is signed for a node."""
    return DeviceSettings(
        node=node,
        serial=serial,
        expires=expires,
        labels=dict(chosen.labels) or None,
        cohort=chosen.cohort,
        telemetry=chosen.telemetry,
        display_name=chosen.display_name or None,
        budgets=dict(chosen.budgets or {}) or None,
        key_refused=key_refused,
    )


def serial_after(before: DeviceSettings | None, state: State | None) -> int:
    """Return the serial of a node's next settings: above what the hub has signed, and above what the node reports.

    A hub that was restored from a backup has forgotten serials that nodes remember.
    """
    return max(before.serial if before is not None else 0, reported_serial(state)) + 1


def reported_serial(state: State | None) -> int:
    """Return the serial of the settings that a node says are in force; 0 where it says none that can be true."""
    found = state.settings.serial if state is not None and state.settings is not None else 0
    return found if found <= REPORTED_SERIAL_MAX else 0


def labels_after(state: State, before: Chosen, after: Chosen) -> Mapping[str, str]:
    """Return the labels that a node will have, as far as the hub can tell: of a label that the hub no longer sets, it knows no other value.

    A node whose site does not accept labels keeps those that it has.
    """
    labels = dict(state.profile.labels) if state.profile is not None else {}
    if state.settings is not None and "labels" in state.settings.ignored:
        return labels
    for key in before.labels.keys() - after.labels.keys():
        labels.pop(key, None)
    return {**labels, **after.labels}


@dataclass(frozen=True, slots=True)
class Move:
    """Name a node for which another deployment of a model will decide; None where none does."""

    node: str
    before: Deployment | None
    after: Deployment | None


def moves(deployments: tuple[Deployment, ...], nodes: Mapping[str, tuple[NodeFacts, NodeFacts]]) -> list[Move]:
    """Return the nodes for which another deployment will decide; each with its facts before and after."""
    found = [Move(name, deciding(deployments, before), deciding(deployments, after)) for name, (before, after) in sorted(nodes.items())]
    return [one for one in found if _name(one.before) != _name(one.after)]


def _name(deployment: Deployment | None) -> str | None:
    return deployment.name if deployment is not None else None
