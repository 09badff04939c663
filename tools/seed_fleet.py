"""Fill a fleet's database as a hub leaves it after years: `python -m tools.seed_fleet FOLDER --nodes 10000 --days 365`.

Benches and tests measure on it what history costs. Rows are as a hub writes them, but for signatures, which a hub verifies before it keeps
a receipt and never again. Everything was tested, nothing is open. It is written to SQLite, and to a database that holds nothing yet.
"""

import argparse
import hashlib
import json
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sqlalchemy import Table
from sqlalchemy.dialects import sqlite
from sqlalchemy.schema import CreateIndex

from fleetcast.counted import counted
from hub.core.drift.intervals import GROUP_HEAD
from hub.core.drift.subgroups import GROUPS
from hub.core.rollouts import fleet
from hub.core.rollouts.proof import proof_of
from hub.database import tables
from hub.database.store import Store
from schemas import codec
from schemas.analytics_messages import Alert, Drift, SignalDrift
from schemas.errors import Code, Refused
from schemas.manifest import Manifest
from schemas.names import sha256
from schemas.receipt import Evidence, Receipt, SealedReceipt
from schemas.state import Profile, Slot, State

DAY, HOUR = 86_400, 3_600
IDS_DAYS = 35  # for which a hub keeps the ids of windows
SIGNATURE = bytes(72)
KINDS: tuple[Literal["node_silent", "refused", "drift", "drift_over"], ...] = ("node_silent", "refused", "drift", "drift_over")


@dataclass(frozen=True, slots=True)
class Plan:
    """Say how large the fleet is, and how long it has run."""

    nodes: int = 10_000
    days: int = 365
    cohorts: int = 20
    signals: int = 20
    bins: int = 9
    days_a_rollout: float = 3.75  # between the beginnings of two rollouts to every node
    alerts_a_day: int = 50
    renewals_a_year: int = 8  # Certificates of one node.


@dataclass(frozen=True, slots=True)
class Release:
    """Hold what rows say of a release."""

    model: str
    version: str
    digest: bytes


def main(arguments: Sequence[str]) -> int:
    """Fill the database of a fleet's folder, or make one in an empty folder."""
    parser = argparse.ArgumentParser(prog="python -m tools.seed_fleet", description=__doc__)
    parser.add_argument(
        "folder", type=Path, help="folder of a fleet, made by `fleetcast init`; its newest releases are those that nodes serve"
    )
    for name in ("nodes", "days", "cohorts"):
        parser.add_argument(f"--{name}", type=int, default=getattr(Plan(), name), help="default: %(default)s")
    asked = parser.parse_args(arguments)
    began = time.monotonic()
    asked.folder.mkdir(parents=True, exist_ok=True)
    try:
        rows = seed(asked.folder / "hub.sqlite", released(asked.folder), Plan(nodes=asked.nodes, days=asked.days, cohorts=asked.cohorts))
    except Refused as refusal:
        print(refusal.reason, file=sys.stderr)
        return 2
    for name, count in rows.items():
        print(f"{name:<20} {count:>10}")
    size = (asked.folder / "hub.sqlite").stat().st_size / 2**20
    print(f"{counted(asked.nodes, 'node')}, {counted(asked.days, 'day')}: {size:.0f} MiB in {time.monotonic() - began:.0f} s")
    return 0


def released(folder: Path) -> list[Release]:
    """Return the newest release of each model that was published in a fleet's folder."""
    from hub.signing.tuf_repository import Repository  # noqa: PLC0415  # a folder without trust has none

    if not (folder / "trust").is_dir():
        return []
    repository, found = Repository(folder / "trust"), list[Release]()
    for model in repository.models():
        documents = [repository.manifest(model, version) for version in repository.releases(model)]
        if documents:
            newest = max(documents, key=lambda document: codec.decode(Manifest, document).created)
            found.append(Release(model, codec.decode(Manifest, newest).version, sha256(newest)))
    return found


def seed(path: Path, releases: Sequence[Release], plan: Plan, *, now: int | None = None, key: bytes = bytes(91)) -> dict[str, int]:
    """Fill an empty database; return the number of rows by table. `key` is the public key of every device.

    The database has no journal meanwhile: what is cut short has to be thrown away.

    Raises:
        Refused: it has nodes already, or a newer program made it.
    """
    now = int(time.time()) if now is None else now
    models = list(releases) or [Release("m", "1.0.0", sha256(b"m@1.0.0"))]
    store = Store(f"sqlite:///{path}")
    store.create()
    has_nodes = store.count_nodes() > 0
    store.close()
    if has_nodes:
        raise Refused(Code.SETTINGS_INVALID, f"{path} has nodes already: seed an empty database")
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA journal_mode=OFF")
        db.execute("PRAGMA synchronous=OFF")
        db.execute("PRAGMA cache_size=-200000")
        found = {table.name: _insert(db, table, rows) for table, rows in _tables(models, plan, now, key)}
        db.execute("PRAGMA journal_mode=WAL")
    return found


def _tables(models: Sequence[Release], plan: Plan, now: int, key: bytes) -> Iterator[tuple[Table, Iterator[tuple[Any, ...]]]]:
    """Yield every table that grows, with its rows in the order of its key, so that they are appended."""
    yield tables.nodes, _nodes(models, plan, now, key)
    yield tables.listened, iter([(1, float(plan.days * DAY))])
    yield tables.heard, ((name, float(plan.days * DAY - number % 300), now - number % 300) for number, name in _names(plan))
    kinds = _kinds(models, plan, now)
    yield tables.receipts, _receipts(kinds, plan)
    yield tables.serving, _serving(kinds, plan)
    yield tables.proofs, _proofs(models, kinds, plan, now, key)
    yield tables.windows_seen, _ids(plan, now)
    yield tables.intervals, _intervals(models, plan, now)
    yield tables.drifts, _drifts(models, plan, now)
    yield (
        tables.counted,
        (
            (one.digest, cohort, start, HOUR, 0, "{}", start)
            for one in models
            for cohort in _cohorts(plan)
            for start in _hours(min(plan.days, IDS_DAYS), now)
        ),
    )
    newest = {one.model: json.dumps({one.version: plan.nodes}) for one in models}
    hours = [(model, hour, counts, float(HOUR)) for model, counts in newest.items() for hour in _hours(plan.days, now)]
    yield tables.release_hours, iter(hours)
    yield tables.alerts, _alerts(models, plan, now)
    yield tables.refusals, ((number, at, "fleetcast/v1/f/want/x", "name.invalid", "no such node") for number, at in _spread(plan, now, 20))
    yield tables.events, _events(plan, now)
    yield (
        tables.commands,
        (
            (number, at, "start", models[0].model, "{}", "done", "", "a rollout has begun", "operator")
            for number, at in _spread(plan, now, 4)
        ),
    )
    yield tables.publishes, ((hashlib.sha256(b"%d" % number).digest(), 3, 300_000, now) for number in range(_rollouts(plan) * 100))
    yield tables.certificates, _certificates(plan, now)


def _insert(db: sqlite3.Connection, table: Table, rows: Iterator[tuple[Any, ...]]) -> int:
    """Append rows by the driver, several times as fast as by SQLAlchemy; indices are made at the end, in one pass."""
    for index in table.indexes:
        db.execute(f"DROP INDEX {index.name}")
    columns = ", ".join(f'"{column.name}"' for column in table.columns)
    marks, before = ", ".join("?" * len(table.columns)), db.total_changes
    db.execute("BEGIN")
    db.executemany(f"INSERT INTO {table.name} ({columns}) VALUES ({marks})", rows)  # noqa: S608  # names of our own
    db.execute("COMMIT")
    for index in table.indexes:
        db.execute(str(CreateIndex(index).compile(dialect=sqlite.dialect())))
    return db.total_changes - before


def _names(plan: Plan) -> Iterator[tuple[int, str]]:
    return ((number, f"node-{number:05}") for number in range(plan.nodes))


def _cohorts(plan: Plan) -> list[str]:
    return [f"site-{number:03}" for number in range(plan.cohorts)]


def _cohort(plan: Plan, number: int) -> str:
    return f"site-{number % plan.cohorts:03}"


def _hours(days: int, now: int) -> range:
    last = now // HOUR * HOUR - HOUR
    return range(last - (days * 24 - 1) * HOUR, last + 1, HOUR)


def _spread(plan: Plan, now: int, a_day: int) -> Iterator[tuple[int, int]]:
    """Yield ids and times over all days."""
    count = plan.days * a_day
    return ((number + 1, now - (count - number) * DAY // a_day) for number in range(count))


def _rollouts(plan: Plan) -> int:
    return max(1, int(plan.days / plan.days_a_rollout))


def _template(of: Callable[[str], bytes]) -> Callable[[str], bytes]:
    """Return a quick way to encode a document of any node: names have one length, so that only they differ."""
    sample = of("node-00000")
    return lambda name: sample.replace(b"node-00000", name.encode())


def _state(models: Sequence[Release], cohort: str, now: int, key: bytes) -> Callable[[str], bytes]:
    slots = tuple(
        Slot(
            model=one.model, state="active", serving=one.digest, serving_version=one.version, target=one.digest, target_version=one.version
        )
        for one in models
    )
    profile = Profile(arch="aarch64", cores=4, memory_bytes=2**32, providers=("CPUExecutionProvider",), labels={"site": cohort})
    return _template(
        lambda name: codec.encode(
            State(
                node=name,
                session=7,
                status="online",
                at=now,
                software="0.1.0",
                public_key=key,
                cohort=cohort,
                profile=profile,
                slots=slots,
                findings=(),
            )
        )
    )


def _nodes(models: Sequence[Release], plan: Plan, now: int, key: bytes) -> Iterator[tuple[Any, ...]]:
    states = [_state(models, cohort, now, key) for cohort in _cohorts(plan)]
    for number, name in _names(plan):
        state = states[number % plan.cohorts](name)
        yield name, 7, "online", now - number % 300, state, key, _cohort(plan, number)


@dataclass(frozen=True, slots=True)
class _Kind:
    """Hold the receipt that every node has signed at one moment."""

    at: int
    sequence: int
    outcome: Literal["serving", "rolled_back"]
    release: Release
    sealed: Callable[[str], bytes]


def _kinds(models: Sequence[Release], plan: Plan, now: int) -> list[_Kind]:
    """Return the receipts of a rollout every few days: every node serves it, and goes back from one in a hundred first."""
    found, times = list[_Kind](), _rollouts(plan)
    for number in range(times):
        at, last = now - int((times - number - 0.5) * plan.days_a_rollout * DAY), number == times - 1
        for newest in models:
            one = newest if last else Release(newest.model, f"0.{number}.0", sha256(f"{newest.model}@0.{number}.0".encode()))
            if number % 100 == 1:
                found.append(_kind(at, len(found) + 1, "rolled_back", one))
            found.append(_kind(at, len(found) + 1, "serving", one))
    return found


def _kind(at: int, sequence: int, outcome: Literal["serving", "rolled_back"], one: Release) -> _Kind:
    return _Kind(at, sequence, outcome, one, _template(lambda name: _sealed(_receipt(name, at, sequence, outcome, one))))


def _receipt(name: str, at: int, sequence: int, outcome: Literal["serving", "rolled_back"], one: Release) -> Receipt:
    served = outcome == "serving"
    evidence = Evidence(golden_rows=16, load_ms=120.0, latency_ms=3.5, memory_bytes=10**8, bytes_planned=10**6, bytes_received=10**6)
    return Receipt(
        node=name,
        sequence=sequence,
        at=at,
        outcome=outcome,
        model=one.model,
        version=one.version,
        digest=one.digest,
        since=at if served else None,
        code="" if served else "golden.failed",
        evidence=evidence if served else None,
    )


def _sealed(receipt: Receipt) -> bytes:
    return codec.encode(SealedReceipt(body=codec.encode(receipt), signature=SIGNATURE))


def _receipts(kinds: Sequence[_Kind], plan: Plan) -> Iterator[tuple[Any, ...]]:
    for _, name in _names(plan):
        for kind in kinds:
            one, at, served = kind.release, kind.at, kind.outcome == "serving"
            says = (one.model, one.version, one.digest, at if served else None, "" if served else "golden.failed", "")
            yield name, kind.sequence, at, at, kind.outcome, *says, kind.sealed(name), 0


def _serving(kinds: Sequence[_Kind], plan: Plan) -> Iterator[tuple[Any, ...]]:
    newest = {kind.release.model: kind for kind in kinds}
    for _, name in _names(plan):
        for model, kind in sorted(newest.items()):
            yield name, model, kind.release.digest, kind.sequence, 0, kind.sequence


def _proofs(models: Sequence[Release], kinds: Sequence[_Kind], plan: Plan, now: int, key: bytes) -> Iterator[tuple[Any, ...]]:
    """Yield what the receipts prove, folded once: they are of every node alike."""
    state = codec.decode(State, _state(models, _cohort(plan, 0), now, key)("node-00000"))
    node = fleet.Node(state, "online", state.session, now, state.public_key)
    for kind in kinds:
        receipt = _receipt("node-00000", kind.at, kind.sequence, kind.outcome, kind.release)
        node = fleet.fold_receipt(node, receipt, received_at=kind.at)
    proof = proof_of(node)
    return ((name, proof) for _, name in _names(plan))


def _ids(plan: Plan, now: int) -> Iterator[tuple[bytes, int]]:
    hours = min(plan.days, IDS_DAYS) * 24
    count = plan.nodes * hours
    for number in range(count):
        yield (number * (2**63 // count)).to_bytes(8) + number.to_bytes(8), now - (number * 7919 % hours) * HOUR


def _intervals(models: Sequence[Release], plan: Plan, now: int) -> Iterator[tuple[Any, ...]]:
    cells = plan.signals * plan.bins
    counts, groups, windows = bytes(8 * cells), bytes(8 * GROUPS * (GROUP_HEAD + cells)), max(1, plan.nodes // plan.cohorts)
    for one in sorted(models, key=lambda one: one.digest):
        for cohort in _cohorts(plan):
            for start in _hours(plan.days, now):
                sums = (windows, 0, windows * 100, 0.0, float(windows), counts, groups)
                yield one.digest, cohort, start, HOUR, 0, one.model, *sums, start + HOUR + 400, windows, 0


def _drifts(models: Sequence[Release], plan: Plan, now: int) -> Iterator[tuple[Any, ...]]:
    calm = SignalDrift(name="signal", p_value=1.0, p_adjusted=1.0, effect=0.0, size=0.0, direction="shape")
    signals = tuple(calm.model_copy(update={"name": f"signal {number}"}) for number in range(plan.signals))
    for one in sorted(models, key=lambda one: (one.model, one.version)):
        for cohort in _cohorts(plan):
            test = Drift(
                model=one.model,
                version=one.version,
                cohort=cohort,
                start=1,
                seconds=HOUR,
                windows=plan.nodes // plan.cohorts,
                alarm=False,
                alpha=0.01,
                signals=signals,
            )
            body = test.model_dump_json()
            for start in _hours(plan.days, now):
                text, tested_at = body.replace('"start":1,', f'"start":{start},'), start + HOUR + 400
                yield one.model, one.version, cohort, start, HOUR, 0, "", tested_at, tested_at, 0, text


def _alerts(models: Sequence[Release], plan: Plan, now: int) -> Iterator[tuple[Any, ...]]:
    for number, at in _spread(plan, now, plan.alerts_a_day):
        name, kind = f"node-{number % plan.nodes:05}", KINDS[number % len(KINDS)]
        model = models[0].model if kind.startswith("drift") else None
        fields: dict[str, Any] = {"cohort": _cohort(plan, number)} if model else {"node": name}
        version = models[0].version if model else None
        alert = Alert(kind=kind, at=at, model=model, code="silent", text=f"{name} was not heard from", version=version, **fields)
        yield number, at, kind, model, alert.model_dump_json()


def _events(plan: Plan, now: int) -> Iterator[tuple[Any, ...]]:
    count = min(100_000, plan.days * plan.nodes)
    for number in range(count):
        name = f"node-{number % plan.nodes:05}"
        is_change = number % 50 == 0
        body = json.dumps(
            {"node": name, "outcome": "serving", "model": "m", "version": "1.0.0", "code": "", "reason": "", "digest": "0" * 64}
        )
        yield (
            number + 1,
            now - (count - number) * 10,
            "rollout" if is_change else "receipt",
            f"{name}: serving m 1.0.0",
            body,
            "operator" if is_change else None,
        )


def _certificates(plan: Plan, now: int) -> Iterator[tuple[Any, ...]]:
    times = max(1, plan.renewals_a_year * plan.days // 365)
    for number, name in _names(plan):
        for time_ in range(times):
            not_after = now + 90 * DAY - (times - 1 - time_) * 45 * DAY
            yield f"{number * times + time_:040x}", name, "node", not_after, bytes(600), None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
