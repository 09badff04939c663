"""Define what a fleet answers a program with: frozen, with the unit of each number in its name. Built of the rows that the API has, too.

A hub that is newer may add fields to a row; they are left out here.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from html import escape
from typing import Any, Self

from fleetcast.cli.terminal_text import plain
from fleetcast.counted import counted
from fleetcast.fleets.tables import Table, in_cell

Row = Mapping[str, Any]


class Shown:
    """Be the base of a result: a notebook shows its fields one below another."""

    __slots__ = ()

    def _repr_html_(self) -> str:
        named = [(one.name, getattr(self, one.name)) for one in fields(self) if one.repr]  # type: ignore[arg-type]
        lines = "".join(f"<tr><th>{escape(name)}</th><td>{_html(value)}</td></tr>" for name, value in named if value not in (None, "", ()))
        return f"<table><tbody>{lines}</tbody></table>"


def _html(value: object) -> str:
    if isinstance(value, Table):
        return value._repr_html_() if len(value) else "none"
    if isinstance(value, Mapping):
        return escape(", ".join(f"{key}={in_cell(one)}" for key, one in value.items()))
    if isinstance(value, tuple):
        return "<br>".join(escape(in_cell(one)) for one in value)
    return escape(in_cell(value))


def moment(text: str | None) -> datetime | None:
    """Return a moment of a row."""
    return None if text is None else datetime.fromisoformat(text).astimezone(UTC)


@dataclass(frozen=True, slots=True)
class Release(Shown):
    """Describe a release of a model. Where a release is asked for, this one or its name will do: `delay@1.2.0`."""

    model: str
    version: str
    digest: str
    size_bytes: int  # Files of its first variant, which most nodes take.
    variants: tuple[str, ...] = ()
    created: datetime | None = None
    description: str = ""
    watched_signals: int = 0
    nodes_serving: int = 0
    needed_as: str | None = None
    removable: bool = False

    @property
    def name(self) -> str:
        """Return the model and the version, as commands take them."""
        return f"{self.model}@{self.version}"

    def __str__(self) -> str:
        return self.name

    @classmethod
    def from_row(cls, row: Row) -> Self:
        """Return what a row says."""
        return cls(
            model=row["model"],
            version=row["version"],
            digest=row["digest"],
            size_bytes=row["bytes"],
            variants=tuple(row["variants"]),
            created=moment(row["created"]),
            description=row["description"],
            watched_signals=row["signals"],
            nodes_serving=row["nodes_serving"],
            needed_as=row["needed_as"],
            removable=row["removable"],
        )


@dataclass(frozen=True, slots=True)
class LeftOut(Shown):
    """Describe a variant that was asked for and is not published."""

    variant: str
    code: str
    reason: str


@dataclass(frozen=True, slots=True)
class PublishedRelease(Release):
    """Describe a release that was published, and what was found when it was built."""

    fetch_bytes: int = 0  # By a device that has nothing yet.
    stored_bytes: int = 0  # By which the fleet's store grew.
    watched: tuple[str, ...] = ()
    unwatched: tuple[str, ...] = ()
    left_out: tuple[LeftOut, ...] = ()
    has_golden_inputs: bool = False
    announced: bool = False  # A hub runs there, and announces it within a second.
    conversion: tuple[str, ...] = ()  # What was done to make ONNX of it, a sentence each.
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PlannedNode(Shown):
    """Say what a rollout costs one node."""

    node: str
    site: str
    link: str
    serves: str
    variant: str
    fetch_bytes: int
    reused_bytes: int
    whole_for_delta_bytes: int  # Fetched whole, because the parent of a delta is not there.
    fetch_seconds: float
    refused: str  # Why the node cannot take it; empty where it can.

    @classmethod
    def from_row(cls, row: Row) -> Self:
        """Return what a row says."""
        return cls(
            node=row["node"],
            site=row["site"],
            link=row["link"],
            serves=row["runs"],
            variant=row["variant"],
            fetch_bytes=row["fetches"],
            reused_bytes=row["has"],
            whole_for_delta_bytes=row["whole_for_delta"],
            fetch_seconds=row["seconds"],
            refused=row["refused"],
        )


@dataclass(frozen=True, slots=True)
class PlannedSite(Shown):
    """Say what a rollout costs one site: when each node fetches for itself, and when a relay fetches once."""

    site: str
    nodes: int
    fetch_bytes: int
    relayed_bytes: int


@dataclass(frozen=True, slots=True)
class PlannedLink(Shown):
    """Say what a rollout costs the nodes on links of one kind."""

    link: str
    nodes: int
    fetch_bytes: int
    bits_per_second: int
    longest_seconds: float


@dataclass(frozen=True, slots=True)
class Plan(Shown):
    """Say what a rollout would cost, before it sends anything."""

    release: str
    deployment: str
    total_bytes: int
    reused_bytes: int
    nodes: Table[PlannedNode] = field(repr=False)
    sites: Table[PlannedSite] = field(repr=False)
    links: Table[PlannedLink] = field(repr=False)
    nodes_by_variant: Mapping[str, int]
    first_install_bytes: Mapping[str, int]  # By variant: what a device fetches that has nothing yet.
    breaks: tuple[str, ...]  # Releases whose programs would not work with this one, and how they differ.
    moves: tuple[str, ...]  # Nodes that change their deployment.
    drift: str  # From which stage on drift can be judged.
    notes: tuple[str, ...]

    @classmethod
    def from_row(cls, row: Row) -> Self:
        """Return what a row says."""
        return cls(
            release=row["release"],
            deployment=row["deployment"],
            total_bytes=row["bytes_planned"],
            reused_bytes=row["bytes_reused"],
            nodes=Table(PlannedNode, [PlannedNode.from_row(one) for one in row["nodes"]]),
            sites=Table(
                PlannedSite, [PlannedSite(one["site"], one["nodes"], one["fetches"], one["behind_a_relay"]) for one in row["sites"]]
            ),
            links=Table(
                PlannedLink,
                [
                    PlannedLink(one["link"], one["nodes"], one["fetches"], one["bit_per_second"], one["seconds_longest"])
                    for one in row["links"]
                ],
            ),
            nodes_by_variant={one["variant"]: one["nodes"] for one in row["variants"]},
            first_install_bytes={one["variant"]: one["bytes"] for one in row["first_install"]},
            breaks=tuple(f"{one['version']} on {counted(one['nodes'], 'node')}: {'; '.join(one['differences'])}" for one in row["breaks"]),
            moves=tuple(f"from {one['from'] or 'none'}: {', '.join(one['nodes'])}" for one in row["changes"]),
            drift=row["drift"]["text"],
            notes=tuple(row["notes"]),
        )


@dataclass(frozen=True, slots=True)
class NodeModel(Shown):
    """Say what a node does with one model, by its receipts and reports."""

    model: str
    serves: str | None
    state: str
    target: str | None
    code: str
    variant: str | None
    planned_bytes: int
    received_bytes: int
    reused_bytes: int
    wasted_bytes: int

    @classmethod
    def from_row(cls, row: Row) -> Self:
        """Return what a row says."""
        return cls(
            model=row["model"],
            serves=row["serving_version"],
            state=row["state"],
            target=row["target_version"],
            code=row["code"],
            variant=row["variant"],
            planned_bytes=row["bytes_planned"],
            received_bytes=row["bytes_received"],
            reused_bytes=row["bytes_reused"],
            wasted_bytes=row["bytes_wasted"],
        )


@dataclass(frozen=True, slots=True)
class Node(Shown):
    """Describe a node. `state` is the class of the model that needs somebody most; None where no deployment decides for it."""

    node: str
    state: str | None
    code: str
    sentence: str
    status: str
    last_seen: datetime
    cohort: str | None
    arch: str | None
    software: str
    display_name: str | None
    labels: Mapping[str, str]
    serves: Mapping[str, str]  # Versions by model, by receipts.
    models: tuple[NodeModel, ...] = field(repr=False, default=())

    @classmethod
    def from_row(cls, row: Row) -> Self:
        """Return what a row says."""
        models = tuple(NodeModel.from_row(one) for one in row["models"])
        return cls(
            node=row["node"],
            state=row["state"],
            code=row["code"],
            sentence=row["sentence"],
            status=row["status"],
            last_seen=moment(row["last_seen"]) or datetime.fromtimestamp(0, UTC),
            cohort=row["cohort"],
            arch=row["arch"],
            software=row["software"],
            display_name=row["display_name"],
            labels=dict(row["labels"]),
            serves={one.model: one.serves for one in models if one.serves is not None},
            models=models,
        )


@dataclass(frozen=True, slots=True)
class Gate(Shown):
    """Say how one gate of a rollout has judged."""

    gate: str
    outcome: str
    sentence: str
    figure: float | None
    limit: float | None
    required: bool


@dataclass(frozen=True, slots=True)
class RolloutStatus(Shown):
    """Say how far a rollout has come, at one moment. `classes` adds up to the nodes that its deployment decides for."""

    model: str
    deployment: str
    version: str
    state: str
    stage: str
    percent: int
    nodes: int
    heard: int
    serving: int
    failed: int
    silent: int
    reason: str
    where: str
    fallback: str | None
    deadline: datetime | None
    classes: Mapping[str, int]
    gates: tuple[Gate, ...] = field(repr=False, default=())
    rollout: str = field(repr=False, default="")

    @property
    def release(self) -> str:
        """Return the name of the release."""
        return f"{self.model}@{self.version}"

    def __str__(self) -> str:
        proof = f"{self.serving} of {self.nodes} node{'s serve' if self.nodes != 1 else ' serves'} it"
        return plain(f"{self.release} {self.state} at {self.percent} %, {proof}: {self.reason}")

    @classmethod
    def from_row(cls, row: Row) -> Self:
        """Return what a row says."""
        names: Callable[[Row], Row] = lambda one: {name.name: one.get(name.name) for name in fields(Gate)}  # noqa: E731
        return cls(
            **{name: row[name] for name in ("model", "deployment", "version", "state", "stage", "percent", "nodes", "heard", "serving")},
            **{name: row[name] for name in ("failed", "silent", "reason", "where", "fallback", "rollout")},
            deadline=moment(row["deadline"]),
            classes=dict(row["classes"]),
            gates=tuple(Gate(**names(one)) for one in row["gates"]),
        )


@dataclass(frozen=True, slots=True)
class DriftStream(Shown):
    """Say what is known of one release in one cohort: whether it drifts, since when, and with how much evidence."""

    model: str
    version: str
    cohort: str
    about: str
    state: str | None
    alarm: bool
    since: datetime | None
    signals: tuple[str, ...]
    evidence: float | None
    evidence_needed: float | None
    newest: datetime | None
    windows: int
    tested_signals: int
    reason: str | None

    @classmethod
    def from_row(cls, row: Row) -> Self:
        """Return what a row says."""
        return cls(
            **{name: row[name] for name in ("model", "version", "cohort", "about", "state", "alarm", "evidence", "evidence_needed")},
            **{name: row[name] for name in ("windows", "tested_signals", "reason")},
            since=moment(row["since"]),
            newest=moment(row["newest"]),
            signals=tuple(one["name"] for one in row["signals"]),
        )


@dataclass(frozen=True, slots=True)
class DriftSignal(Shown):
    """Say how far one signal of a stream that drifts has moved: by its alert, and in the newest interval."""

    model: str
    version: str
    cohort: str
    about: str
    signal: str
    direction: str | None
    size: float
    size_low: float | None
    size_high: float | None
    size_unit: str | None
    newest_size: float | None
    newest_size_unit: str | None
    evidence: float | None

    @classmethod
    def from_rows(cls, stream: Row, row: Row) -> Self:
        """Return what the rows of a stream and of its signal say."""
        return cls(
            **{name: stream[name] for name in ("model", "version", "cohort", "about")},
            signal=row["name"],
            **{name: row[name] for name in ("direction", "size", "size_low", "size_high", "size_unit", "evidence")},
            newest_size=row["size_newest"],
            newest_size_unit=row["size_newest_unit"],
        )


@dataclass(frozen=True, slots=True)
class Event(Shown):
    """Say what happened in the fleet, when and by whom."""

    id: int
    at: datetime
    kind: str
    text: str
    actor: str | None
    facts: Mapping[str, Any] = field(repr=False, default_factory=dict)

    def __str__(self) -> str:
        return plain(f"{self.at:%Y-%m-%d %H:%M:%S}  {self.kind:<8} {self.text}")

    @classmethod
    def from_row(cls, row: Row) -> Self:
        """Return what a row says."""
        at = moment(row["at"]) or datetime.fromtimestamp(0, UTC)
        return cls(row["id"], at, row["kind"], row["text"], row["actor"], dict(row["facts"]))


@dataclass(frozen=True, slots=True)
class Done(Shown):
    """Say what became of something that the hub was asked to do: `open` until it has obeyed, which it does as soon as it runs."""

    operation: int
    state: str
    text: str
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
