"""Read fleet.toml: a fleet and a rollout to simulate. All is checked here; an error names the file, the line, the key and the mend."""

import difflib
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, ValidationError, model_validator

from fleetcast.time_zones import zone_of
from fleetcast.toml_text import parse_toml
from hub.core.rollouts.commands import NamedStage, Start, read_as
from hub.core.rollouts.rollout import RETRY_SECONDS
from hub.core.rollouts.stages import parse_stages
from hub.core.rollouts.terms import check_times
from node.core.delivery.byte_quota import Policy
from schemas.document import Fact
from schemas.errors import Code, Refused
from schemas.limits import BLOCK_BYTES_MAX, FILE_BYTES_MAX
from schemas.names import Label
from schemas.rollout import Carriage, Gate
from schemas.state import REPORT_SECONDS, LinkClass
from schemas.windows import parse_windows
from simulation.core.link_classes import CLASSES, Link
from simulation.core.plan import VERSION, Fetch, Group, Plan
from simulation.core.schedule import parse_schedule

NODES_MAX = 1_000_000
GROUPS_MAX = 64
FILE_CHARACTERS_MAX = 256 * 1024
YEAR_MIN, YEAR_MAX = 1971, 2099
SHARE_TOLERANCE = 0.01
DEFAULT_START = datetime(2026, 1, 5, 8, tzinfo=UTC)  # A Monday; it is stated, so that a run can be repeated.
_DURATION = re.compile(r"(\d{1,6})([mhdw])")
_UNITS = {"m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}

Share = Annotated[float, Field(ge=0, le=1)]
Name = Annotated[str, Field(min_length=1, max_length=48, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]


def _start_of(said: datetime) -> datetime:
    """Return a start in UTC, where it names no zone: the same file says the same on every machine."""
    found = said if said.tzinfo is not None else said.replace(tzinfo=UTC)
    if not YEAR_MIN <= found.year <= YEAR_MAX:
        raise ValueError(f"the year must be from {YEAR_MIN} to {YEAR_MAX}")
    return found


class ReleaseTable(Fact):
    """Describe the release: by sizes, or a published one by the folder of its fleet and its name."""

    full_bytes: Annotated[int, Field(ge=1, le=FILE_BYTES_MAX)] | None = None
    delta_bytes: Annotated[int, Field(ge=1, le=FILE_BYTES_MAX)] | None = None
    block_bytes: Annotated[int, Field(ge=1024, le=BLOCK_BYTES_MAX)] = BLOCK_BYTES_MAX
    activate_seconds: Annotated[float, Field(ge=0, le=86_400)] = 20.0
    directory: str | None = None
    name: str | None = None
    parent: str | None = None
    variant: str | None = None

    @model_validator(mode="after")
    def _is_one_kind(self) -> Self:
        if (self.full_bytes is None) == (self.directory is None):
            raise ValueError("give either full_bytes, or directory and name of a release that is published")
        if (self.directory is None) != (self.name is None):
            raise ValueError("directory and name belong together: directory = 'plant' and name = 'delay@1.2.0'")
        if self.full_bytes is None and self.delta_bytes is not None:
            raise ValueError("delta_bytes belongs to full_bytes; a published release has its own sizes")
        if self.full_bytes is not None and self.delta_bytes is not None and self.delta_bytes > self.full_bytes:
            raise ValueError("delta_bytes is more than full_bytes: no node would take such a delta, so leave it out")
        return self


class RolloutTable(Fact):
    """Describe the terms of the rollout, by the names of `fleetcast rollout start`."""

    stages: str = "100"
    where: str | None = None
    receipts_min: Share = 0.95
    failures_max: Share = 0.05
    soak_seconds: Annotated[int, Field(ge=0, le=30 * 86_400)] = 0
    silent_seconds: Annotated[int, Field(ge=1, le=30 * 86_400)] = 3600
    nodes_min: Annotated[int, Field(ge=1)] | None = None
    retries: Annotated[int, Field(ge=1, le=100)] | None = None
    retry_seconds: Annotated[int, Field(ge=1, le=30 * 86_400)] = RETRY_SECONDS
    fetch: str | None = None
    activate: str | None = None
    deadline: str | None = None
    node_bytes_max: Annotated[int, Field(ge=0)] | None = None
    full_download: bool | None = None


class LinkTable(Fact):
    """Describe a link of the operator's own; what is left out is as in the class that it is like."""

    like: Literal["lte-m", "nb-iot", "satellite", "wifi", "ethernet"] | None = None
    rate_kbit_s: Annotated[float, Field(gt=0, le=1e8)] | None = None
    rate_spread: Annotated[float, Field(ge=0, le=2)] | None = None
    latency_seconds: Annotated[float, Field(ge=0, le=60)] | None = None
    loss: Annotated[float, Field(ge=0, le=0.5)] | None = None
    drops_per_day: Annotated[float, Field(ge=0, le=10_000)] | None = None
    outage_seconds: Annotated[float, Field(gt=0, le=86_400)] | None = None
    cost: LinkClass | None = None
    price_mb: Annotated[float, Field(ge=0)] | None = None


class GroupTable(Fact):
    """Describe nodes that are alike."""

    name: Name
    share: Annotated[float, Field(gt=0, le=100)] | None = None
    count: Annotated[int, Field(ge=1, le=NODES_MAX)] | None = None
    link: str
    labels: Annotated[dict[Label, Label], Field(max_length=32, default_factory=dict)]
    zone: str = "UTC"
    on: str = "always"
    on_shift_minutes: Annotated[int, Field(ge=0, le=24 * 60)] = 0
    state_seconds: Annotated[int, Field(ge=1, le=2**31)] = REPORT_SECONDS
    budget_bytes_day: Annotated[int, Field(ge=0)] | None = None
    hours: str = ""
    full_download: bool | None = None
    serves: str = "parent"
    fails: Share = 0.0
    mends: Share = 0.0


class FleetTable(Fact):
    """Describe a fleet and a rollout to simulate."""

    nodes: Annotated[int, Field(ge=1, le=NODES_MAX)] | None = None
    days_max: Annotated[float, Field(gt=0, le=366)] = 60.0
    start: Annotated[datetime, AfterValidator(_start_of)] = DEFAULT_START
    release: ReleaseTable
    rollout: RolloutTable = RolloutTable()
    links: Annotated[dict[Name, LinkTable], Field(max_length=GROUPS_MAX, default_factory=dict)]
    groups: Annotated[tuple[GroupTable, ...], Field(min_length=1, max_length=GROUPS_MAX, strict=False)]


class FleetFile:
    """Hold the text of a fleet file and its path, and raise what is wrong with it by file, line and key."""

    def __init__(self, path: str, text: str) -> None:
        self.path, self.text = path, text

    def table(self) -> FleetTable:
        """Parse the text.

        Raises:
            Refused: SETTINGS_INVALID: it is not TOML, or a key is unknown, missing or out of bounds.
        """
        try:
            values = parse_toml(self.text)
        except ValueError as error:
            raise Refused(Code.SETTINGS_INVALID, f"{self.path} is not TOML: {error}") from None
        try:
            return FleetTable.model_validate(values)
        except ValidationError as error:
            first = min(error.errors(include_url=False), key=lambda one: one["type"] != "extra_forbidden")
            raise self.wrong(first["loc"], _sentence(first)) from None

    def wrong(self, loc: Sequence[int | str], sentence: str) -> Refused:
        """Return the refusal of what stands at a key."""
        line = line_of(self.text, loc)
        where = f"{self.path}, line {line}" if line else self.path
        return Refused(Code.SETTINGS_INVALID, f"{where}: {key_of(loc)}: {sentence}" if loc else f"{where}: {sentence}")


def read(path: Path) -> FleetFile:
    """Read a fleet file.

    Raises:
        Refused: SETTINGS_INVALID: it cannot be read, is too long, or no text.
    """
    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(FILE_CHARACTERS_MAX + 1)
    except OSError as error:
        raise Refused(Code.SETTINGS_INVALID, f"{path}: {error.strerror or error}; --example prints a file that runs") from None
    except UnicodeDecodeError:
        raise Refused(Code.SETTINGS_INVALID, f"{path} is no text in UTF-8") from None
    if len(text) > FILE_CHARACTERS_MAX:
        raise Refused(Code.SETTINGS_INVALID, f"{path} has more than {FILE_CHARACTERS_MAX} characters")
    return FleetFile(str(path), text)


def plan_of(file: FleetFile, table: FleetTable, fetches: Mapping[str, Fetch | None], *, nodes: int | None = None) -> Plan:
    """Return the plan of a fleet file. `fetches` says what nodes fetch that serve such a release; `nodes` goes over the file's number.

    Raises:
        Refused: SETTINGS_INVALID, with the key that is wrong.
    """
    counts = _counts(file, table, nodes)
    links = _links(file, table)
    groups = []
    for at, (group, count) in enumerate(zip(table.groups, counts, strict=True)):
        groups.append(_group(file, table, at, group, count, links, fetches))
    if not sum(counts):
        raise file.wrong(("nodes",), "there are no nodes: give at least 1")
    start = int(table.start.timestamp())
    return Plan(
        groups=tuple(one for one in groups if one.nodes),
        rollout=_start(file, table, start),
        start=start,
        days_max=table.days_max,
        activate_seconds=table.release.activate_seconds,
    )


def sizes_of(table: ReleaseTable) -> dict[str, Fetch | None]:
    """Return what nodes fetch of a release that is given by its sizes, by what they serve."""
    full, delta = table.full_bytes or 1, table.delta_bytes
    count = -(-full // table.block_bytes)
    whole = Fetch(_divided(full, count))
    if delta is None:
        return {"parent": whole, "other": whole, "nothing": whole, "release": None}
    return {
        "parent": Fetch(_divided(delta, min(count, delta))),
        "other": Fetch(whole.payloads, instead_bytes=full if delta < full else 0),
        "nothing": whole,
        "release": None,
    }


def _divided(size_bytes: int, count: int) -> tuple[int, ...]:
    small, more = divmod(size_bytes, count)
    return (small + 1,) * more + (small,) * (count - more)


def _counts(file: FleetFile, table: FleetTable, nodes: int | None) -> list[int]:
    shares = [one.share for one in table.groups if one.share is not None]
    counts = [one.count for one in table.groups if one.count is not None]
    for at, one in enumerate(table.groups):
        if (one.share is None) == (one.count is None):
            both = "both share and count" if one.share is not None else "neither share nor count"
            raise file.wrong(("groups", at, "share"), f"group {one.name!r} has {both}: give one of the two, the same in every group")
    if shares and counts:
        raise file.wrong(("groups", 0, "share"), "some groups have a share and others a count: give all groups the same of the two")
    if shares and abs(sum(shares) - 100) > SHARE_TOLERANCE:
        raise file.wrong(("groups", 0, "share"), f"the shares of all groups add up to {sum(shares):g}: they must add up to 100 (percent)")
    total = nodes if nodes is not None else table.nodes if table.nodes is not None else sum(counts) or None
    if total is None:
        raise file.wrong(("nodes",), "with shares, the file needs nodes = NUMBER, or the command --nodes NUMBER")
    if counts and nodes is None and table.nodes is not None and table.nodes != sum(counts):
        raise file.wrong(("nodes",), f"it is {table.nodes}, and the counts of all groups add up to {sum(counts)}: leave it out")
    weights = [float(one) for one in shares or counts]
    exact = [total * one / sum(weights) for one in weights]
    found = [int(one) for one in exact]
    for at in sorted(range(len(exact)), key=lambda at: (found[at] - exact[at], at))[: total - sum(found)]:
        found[at] += 1
    return found


def _links(file: FleetFile, table: FleetTable) -> dict[str, Link]:
    found = dict(CLASSES)
    for name, one in table.links.items():
        base = CLASSES.get(one.like or name)
        if base is None and (one.rate_kbit_s is None or one.latency_seconds is None):
            classes = ", ".join(CLASSES)
            raise file.wrong(("links", name), f"it needs rate_kbit_s and latency_seconds, or like = one of {classes}")
        base = base or Link(name, 0.0, 0.0)
        found[name] = Link(
            name=name,
            rate_bit_s=one.rate_kbit_s * 1000 if one.rate_kbit_s is not None else base.rate_bit_s,
            latency_seconds=_or(one.latency_seconds, base.latency_seconds),
            loss=_or(one.loss, base.loss),
            spread=_or(one.rate_spread, base.spread),
            drops_per_day=_or(one.drops_per_day, base.drops_per_day),
            outage_seconds=_or(one.outage_seconds, base.outage_seconds),
            cost_class=one.cost or base.cost_class,
            price_mb=one.price_mb if one.price_mb is not None else base.price_mb,
        )
    return found


def _or(value: float | None, other: float) -> float:
    return value if value is not None else other


def _group(
    file: FleetFile,
    table: FleetTable,
    at: int,
    group: GroupTable,
    count: int,
    links: Mapping[str, Link],
    fetches: Mapping[str, Fetch | None],
) -> Group:
    def wrong(key: str, sentence: str) -> Refused:
        return file.wrong(("groups", at, key), sentence)

    if group.name in [one.name for one in table.groups[:at]]:
        raise wrong("name", f"two groups are called {group.name!r}: give each a name of its own")
    if group.link not in links:
        raise wrong("link", f"there is no link {group.link!r}{_near(group.link, links)}")
    if group.serves not in fetches:
        raise wrong("serves", f"{group.serves!r} is none of {', '.join(fetches)}{_near(group.serves, fetches)}")
    link, fetch = links[group.link], fetches[group.serves]
    try:
        schedule = parse_schedule(group.on)
    except Refused as refusal:
        raise wrong("on", refusal.reason) from None
    try:
        zone = zone_of(group.zone)
    except ValueError as error:
        raise wrong("zone", str(error)) from None
    whole = Policy.default(link.cost_class).full_download if group.full_download is None else group.full_download
    try:
        policy = Policy(bytes_day_max=group.budget_bytes_day, hours=group.hours, full_download=whole)
    except ValidationError as error:
        raise wrong("hours", error.errors()[0]["msg"].removeprefix("Value error, ")) from None
    begin, _, end = group.hours.partition("-")
    if group.hours and begin == end:
        raise wrong("hours", f"{group.hours!r} never is open: leave it out for the whole day")
    block = max(fetch.payloads, default=0) if fetch is not None else 0
    if group.budget_bytes_day is not None and group.budget_bytes_day < block:
        raise wrong(
            "budget_bytes_day",
            f"it is {group.budget_bytes_day}, and one block of the release takes {block} bytes, so that none would ever be fetched: "
            f"give at least {block}, or a smaller block_bytes in [release]",
        )
    if group.mends and not group.fails:
        raise wrong("mends", "no node of the group fails: give fails too, or leave mends out")
    return Group(
        name=group.name,
        nodes=count,
        link=link,
        labels=group.labels,
        zone=zone,
        schedule=schedule,
        shift_seconds_max=60.0 * group.on_shift_minutes if schedule.windows else 0.0,
        report_seconds=group.state_seconds,
        policy=policy,
        fetch=fetch,
        serves_nothing=group.serves == "nothing",
        fails=group.fails,
        mends=group.mends,
    )


def _start(file: FleetFile, table: FleetTable, start: int) -> Start:
    rollout = table.rollout

    def parsed(key: str, parse: Any, text: str | None) -> Any:
        try:
            return parse(text) if text is not None else None
        except Refused as refusal:
            raise file.wrong(("rollout", key), refusal.reason) from None

    stages = parsed("stages", parse_stages, rollout.stages)
    fetch, activate = parsed("fetch", parse_windows, rollout.fetch), parsed("activate", parse_windows, rollout.activate)
    deadline = None
    if rollout.deadline is not None:
        found = _DURATION.fullmatch(rollout.deadline)
        if found is None or not int(found[1]):
            raise file.wrong(("rollout", "deadline"), f"{rollout.deadline!r} is no time from the start: write 36h, 7d or 2w")
        deadline = start + int(found[1]) * _UNITS[found[2]]
    parsed("deadline", lambda _: check_times(activate=activate, deadline=deadline, now=start, fetch=fetch), rollout.deadline)
    gate = Gate(
        receipts_ratio_min=rollout.receipts_min,
        failures_ratio_max=rollout.failures_max,
        soak_seconds=rollout.soak_seconds,
        silent_seconds=rollout.silent_seconds,
        nodes_min=rollout.nodes_min,
        retries=rollout.retries,
        retry_seconds=rollout.retry_seconds if rollout.retries is not None else None,
    )
    wish = Start(
        version=VERSION,
        where=rollout.where,
        labels={},
        stages=tuple(one if isinstance(one, int) else NamedStage(name=one.name, where=one.where) for one in stages),
        gate=gate,
        carriage=Carriage(bytes_max=rollout.node_bytes_max, full_download=rollout.full_download, fetch=fetch),
        activate=activate,
        deadline=deadline,
    )
    return read_as(Start, wish.model_dump_json())


def _sentence(error: Any) -> str:
    """Return what is wrong with a key, and what would be right."""
    if error["type"] == "extra_forbidden":
        table = _table_at(error["loc"][:-1])
        known = list(table.model_fields) if table is not None else []
        return f"unknown key{_near(str(error['loc'][-1]), known)}"
    if error["type"] == "missing":
        return "the key is missing"
    text = str(error["msg"]).removeprefix("Value error, ")
    found = error.get("input")
    return f"{text}, found {found!r}" if isinstance(found, int | float | str) else text


def _table_at(loc: Sequence[int | str]) -> type[Fact] | None:
    kinds: dict[str, type[Fact]] = {"release": ReleaseTable, "rollout": RolloutTable, "links": LinkTable, "groups": GroupTable}
    return FleetTable if not loc else kinds.get(str(loc[0]))


def _near(name: str, known: Sequence[str] | Mapping[str, object]) -> str:
    names = list(known)
    near = difflib.get_close_matches(name, names, n=1)
    return f": did you mean {near[0]!r}?" if near else f"; there are {', '.join(names)}"


def key_of(loc: Sequence[int | str]) -> str:
    """Return a key as an operator reads it: `groups[2].share`, counted from 1."""
    text = ""
    for one in loc:
        text += f"[{one + 1}]" if isinstance(one, int) else f".{one}" if text else one
    return text


def line_of(text: str, loc: Sequence[int | str]) -> int | None:
    """Return the line on which a key stands, or its table; None where neither is found."""
    if not loc:
        return None
    names = [str(one) for one in loc if isinstance(one, str)]
    number = next((one for one in loc if isinstance(one, int)), 0)
    header = ".".join(names[:1] if isinstance(loc[-1], int) or (len(names) <= 2 and names[0] != "links") else names[:2])
    key, table, seen, found = str(loc[-1]), "", -1, None
    for at, line in enumerate(text.splitlines(), 1):
        opened = re.fullmatch(r"\s*\[\[?\s*([^\]]+?)\s*\]\]?\s*(#.*)?", line)
        if opened:
            table = opened[1].replace('"', "").replace("'", "")
            seen += table == header and "[[" in line
            if table == header and ("[[" not in line or seen == number) and found is None:
                found = at
        mine = (table == header and (header != "groups" or seen == number)) if len(names) > 1 else not table
        if mine and re.match(rf"\s*[\"']?{re.escape(key)}[\"']?\s*[.=]", line):
            return at
    return found
