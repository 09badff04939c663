"""Take over what hubs kept before databases carried a version, of whichever version they were."""

from typing import Any

from alembic import op
from sqlalchemy import Connection, func, insert, inspect, select, text, update

from hub.core.rollouts.deployments import alone
from hub.core.rollouts.receipt_order import Newest, epoch_of, newer
from hub.database.connection import put, where
from hub.database.migrations import first_tables as tables
from schemas import codec
from schemas.deployments import name_of
from schemas.earlier_rollouts import as_deployments
from schemas.errors import Refused
from schemas.rollout import Rollout
from schemas.selectors import from_labels

revision, down_revision = "0001", None

FIRST_TABLE = "intervals"
FIRST_ROLLOUTS = "rollouts"  # One rollout a model.
FIRST_DRIFTS, SECOND_DRIFTS = "drifts", "drift_results"


def upgrade() -> None:
    """Make what is missing, and bring over everything that an earlier version kept in tables of its own."""
    db = op.get_bind()
    _add_columns(db)
    tables.metadata.create_all(db)
    for table in tables.metadata.sorted_tables:
        known = {index["name"] for index in inspect(db).get_indexes(table.name)}
        for index in sorted(table.indexes, key=lambda one: str(one.name)):
            if index.name not in known:
                index.create(db)
    _intervals(db)
    _drifts(db)
    _newest_drifts(db)
    _rollouts(db)


def _add_columns(db: Connection) -> None:
    """Add columns that tables of earlier versions lack; before anything reads those tables, and before their indices are made."""
    actor = "actor VARCHAR(64)"
    added = [(table, actor) for table in (tables.commands, tables.events, tables.rollouts, tables.device_lives)]
    for table, column in [*added, (tables.rollouts, "tries_from BIGINT")]:
        if inspect(db).has_table(table.name) and column.split()[0] not in {one["name"] for one in inspect(db).get_columns(table.name)}:
            db.execute(text(f"ALTER TABLE {table.name} ADD COLUMN {column}"))  # names of our own
    if inspect(db).has_table(tables.receipts.name) and not _has_epochs(db):
        db.execute(text(f"ALTER TABLE {tables.receipts.name} ADD COLUMN epoch BIGINT NOT NULL DEFAULT 0"))
        _epochs(db)


def _has_epochs(db: Connection) -> bool:
    return any(one["name"] == "epoch" for one in inspect(db).get_columns(tables.receipts.name))


def _epochs(db: Connection) -> None:
    """Find where nodes have counted anew: an earlier hub kept no more than the order in which receipts arrived."""
    table = tables.receipts.c
    query = select(table.node, table.sequence, table.at).order_by(table.node, table.received_at, table.sequence)
    name, newest = "", None
    for node, sequence, at in db.execute(query).all():
        name, newest = node, newest if node == name else None
        epoch = epoch_of(newest, sequence=sequence, at=at)
        newest = newer(newest, Newest(epoch, sequence, at))
        if epoch:
            db.execute(update(tables.receipts).where(table.node == node, table.sequence == sequence).values(epoch=epoch))


def _intervals(db: Connection) -> None:
    """Bring over what a first hub kept: none of its windows were calibrated, and their rows are not known beside their counts."""
    if not inspect(db).has_table(FIRST_TABLE):
        return
    names = "release, cohort, start, seconds, model, windows, counts, last_at, tested_windows, alarmed"
    db.execute(
        text(
            f"INSERT INTO {tables.intervals.name} ({names}, calibrated, late, rows, reference_rows, noise_units, subgroups)"  # noqa: S608
            f" SELECT {names}, :calibrated, 0, 0, 0, windows, :none FROM {FIRST_TABLE}"
        ),
        {"calibrated": False, "none": b""},
    )
    db.execute(text(f"DROP TABLE {FIRST_TABLE}"))


def _drifts(db: Connection) -> None:
    """Bring over what earlier hubs found: all of it of signals, and a first one's all of windows that were not calibrated."""
    names = "model, version, cohort, start, seconds, tested_at, alarm, body"
    for earlier, calibrated in ((FIRST_DRIFTS, "FALSE"), (SECOND_DRIFTS, "calibrated")):
        if inspect(db).has_table(earlier):
            into = f"INSERT INTO {tables.drifts.name} ({names}, first_tested_at, calibrated, about)"
            db.execute(text(f"{into} SELECT {names}, tested_at, {calibrated}, '' FROM {earlier}"))  # noqa: S608  # names of our own
            db.execute(text(f"DROP TABLE {earlier}"))


def _newest_drifts(db: Connection) -> None:
    """Find the test that an earlier hub retained on each model's topic: it looked through all of its tests for it. Runs once a model."""
    table, model = tables.drifts.c, ""
    order = (table.start.desc(), table.cohort, table.calibrated.desc())
    while (following := db.execute(select(func.min(table.model)).where(table.model > model)).scalar()) is not None:
        model = following
        if db.execute(where(select(tables.newest_drifts.c.model), tables.newest_drifts, {"model": model})).first() is not None:
            continue
        mine = select(*tables.drifts.primary_key.columns).where(table.model == model, table.about == "")
        key = db.execute(mine.order_by(*order).limit(1)).mappings().first()
        if key is not None:
            newest = db.execute(where(select(table.model, table.tested_at, table.body), tables.drifts, dict(key))).mappings().one()
            db.execute(insert(tables.newest_drifts).values(dict(newest)))


def _rollouts(db: Connection) -> None:
    """Bring over the working state of earlier hubs, which had one rollout a model: it is that of the deployment which the rollout is.

    A row that cannot be read is left out: the controller then begins afresh by what is signed.
    """
    if not inspect(db).has_table(FIRST_ROLLOUTS):
        return
    for row in db.execute(text(f"SELECT * FROM {FIRST_ROLLOUTS}")).mappings().all():  # noqa: S608  # a name of our own
        values: dict[str, Any] = dict(row)
        try:
            rollout = codec.decode(Rollout, values["document"])
        except Refused:
            continue
        statement, name = as_deployments(rollout, expires=0), name_of(from_labels(rollout.labels))
        moving = next(one for one in statement.deployments if one.name == name)
        put(
            db,
            tables.rollouts,
            {"model": statement.model, "deployment": moving.name},
            {**values, "deployment": moving.name, "gates": "[]", "document": alone(statement.model, statement.serial, moving)},
        )
    db.execute(text(f"DROP TABLE {FIRST_ROLLOUTS}"))
