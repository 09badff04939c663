"""Declares the hub's tables, in SQL that SQLite and PostgreSQL both speak. Times are whole seconds since 1970, UTC."""

from typing import Any

from sqlalchemy import BigInteger, Boolean, Column, Double, Index, Integer, LargeBinary, MetaData, String, Table, Text, text

metadata = MetaData()
# SQLite numbers rows by itself only for a plain INTEGER key.
_serial = BigInteger().with_variant(Integer, "sqlite")
# PostgreSQL would refuse what is longer, where SQLite does not look, and would sort by the server's language.
_TEXT = Text(collation="C")


def _characters(most: int) -> String:
    return String(most).with_variant(_TEXT, "postgresql")


def _interval_key() -> tuple[Column[Any], ...]:
    """Return the columns that name an interval, in every table that has them: `hub.database.rows.INTERVAL_KEY`."""
    return (
        Column("release", LargeBinary(32), primary_key=True),
        Column("cohort", _characters(64), primary_key=True),
        Column("start", BigInteger, primary_key=True),
        Column("seconds", BigInteger, primary_key=True),
        Column("calibrated", Boolean, primary_key=True),
    )


nodes = Table(
    "nodes",
    metadata,
    Column("node", _characters(64), primary_key=True),
    Column("session", BigInteger, nullable=False),
    Column("status", _characters(16), nullable=False),
    Column("last_seen", BigInteger, nullable=False),
    Column("state", LargeBinary, nullable=False),
    Column("public_key", LargeBinary, nullable=False),
    Column("cohort", _characters(64), nullable=False),
)

# How long the hub has listened to its nodes in all (hub/core/rollouts/listening.py), in one row, and when each node was last heard on that
# clock.
listened = Table(
    "listened",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("seconds", Double, nullable=False),
)

heard = Table(
    "heard",
    metadata,
    Column("node", _characters(64), primary_key=True),
    Column("at", Double, nullable=False),
    Column("last_seen", BigInteger, nullable=False, server_default="0"),  # By the wall clock; `nodes` has that of the last report kept.
)

receipts = Table(
    "receipts",
    metadata,
    Column("node", _characters(64), primary_key=True),
    Column("sequence", BigInteger, primary_key=True),
    Column("received_at", BigInteger, nullable=False),
    Column("at", BigInteger, nullable=False),
    Column("outcome", _characters(16), nullable=False),
    Column("model", _characters(64)),
    Column("version", _characters(64)),
    Column("digest", LargeBinary),
    Column("since", BigInteger),
    Column("code", _characters(64), nullable=False),
    Column("reason", Text, nullable=False),
    Column("sealed", LargeBinary, nullable=False),
    Column("epoch", BigInteger, nullable=False, server_default="0"),
    Index("receipts_newest", "node", "epoch", "sequence"),
    Index("receipts_by_release", "digest"),
    Index("receipts_by_age", "received_at"),
)

# Who serves what, by receipts: commands read it in place of all receipts. `digest` is null where a node has gone back from what it served,
# and has not signed what it serves instead. `epoch` and `sequence` are of the newest receipt of the model, `served_by` is the number of
# the one that says what is served.
serving = Table(
    "serving",
    metadata,
    Column("node", _characters(64), primary_key=True),
    Column("model", _characters(64), primary_key=True),
    Column("digest", LargeBinary),
    Column("served_by", BigInteger),
    Column("epoch", BigInteger, nullable=False),
    Column("sequence", BigInteger, nullable=False),
    Index("serving_by_release", "digest"),
)

# What a node's receipts prove, folded (hub/core/rollouts/proof.py). A row is deleted with every receipt that comes, and written a while
# later: a node without one is folded again from its receipts.
proofs = Table(
    "proofs",
    metadata,
    Column("node", _characters(64), primary_key=True),
    Column("body", LargeBinary, nullable=False),
)

early_receipts = Table(
    "early_receipts",
    metadata,
    Column("id", _serial, primary_key=True, autoincrement=True),
    Column("node", _characters(64), nullable=False, index=True),
    Column("at", BigInteger, nullable=False),
    Column("sealed", LargeBinary, nullable=False),
)

# Windows of cohorts that nothing names yet.
early_windows = Table(
    "early_windows",
    metadata,
    Column("id", _serial, primary_key=True, autoincrement=True),
    Column("model", _characters(64), nullable=False),
    Column("cohort", _characters(64), nullable=False),
    Column("at", BigInteger, nullable=False),
    Column("window", LargeBinary, nullable=False),
)

undated_windows = Table(
    "undated_windows",
    metadata,
    Column("id", _serial, primary_key=True, autoincrement=True),
    Column("model", _characters(64), nullable=False),
    Column("cohort", _characters(64), nullable=False),
    Column("start", BigInteger, nullable=False),
    Column("window", LargeBinary, nullable=False),
)

commands = Table(
    "commands",
    metadata,
    Column("id", _serial, primary_key=True, autoincrement=True),
    Column("at", BigInteger, nullable=False),
    Column("kind", _characters(16), nullable=False),
    Column("model", _characters(64), nullable=False),
    Column("body", Text, nullable=False),
    Column("state", _characters(16), nullable=False, index=True),
    Column("code", _characters(64), nullable=False),
    Column("text", Text, nullable=False),
    Column("actor", _characters(64)),
)

rollouts = Table(
    "deployment_rollouts",  # An earlier hub's table `rollouts` has one a model; hub/database/migrations.py takes it over.
    metadata,
    Column("model", _characters(64), primary_key=True),
    Column("deployment", _characters(64), primary_key=True),
    Column("serial", BigInteger, nullable=False),
    Column("document", LargeBinary, nullable=False),
    Column("stage_entered_at", BigInteger, nullable=False),
    Column("held_since", BigInteger),
    Column("judged_from", BigInteger, nullable=False),
    Column("reason", Text, nullable=False),
    Column("gates", Text, nullable=False),
    Column("addressed", Integer, nullable=False),
    Column("heard", Integer, nullable=False),
    Column("serving", Integer, nullable=False),
    Column("failed", Integer, nullable=False),
    Column("silent", Integer, nullable=False),
    Column("updated_at", BigInteger, nullable=False),
    Column("actor", _characters(64)),
    Column("tries_from", BigInteger),
)

windows_seen = Table(
    "windows_seen",
    metadata,
    Column("id", LargeBinary(16), primary_key=True),
    Column("at", BigInteger, nullable=False, index=True),
)

_UNSETTLED = text("windows > tested_windows")

intervals = Table(
    "merged_intervals",  # a first hub's table `intervals` did not keep calibrated windows apart; hub/database/migrations.py takes it over
    metadata,
    *_interval_key(),
    Column("model", _characters(64), nullable=False),
    Column("windows", BigInteger, nullable=False),
    Column("late", BigInteger, nullable=False),
    Column("rows", BigInteger, nullable=False),
    Column("reference_rows", Double, nullable=False),
    Column("noise_units", Double, nullable=False),
    Column("counts", LargeBinary, nullable=False),
    Column("subgroups", LargeBinary, nullable=False),
    Column("last_at", BigInteger, nullable=False, index=True),
    Column("tested_windows", BigInteger, nullable=False),
    Column("alarmed", Boolean, nullable=False),
    # The hub looks for what waits twice a second: the index holds the few intervals that do, and none of the years that are kept.
    Index("merged_intervals_unsettled", "last_at", sqlite_where=_UNSETTLED, postgresql_where=_UNSETTLED),
    Index("merged_intervals_by_cohort", "model", "cohort", "start"),
    Index("merged_intervals_heard", "release", "last_at"),  # which nodes a rollout's gate has heard since its stage began
)

# Intervals of which too few windows are left without those that are unlike the others: neither tested nor shown.
withheld = Table(
    "withheld",
    metadata,
    *_interval_key(),
    Column("windows_left", BigInteger, nullable=False),
)

drifts = Table(
    "drift_tests",  # earlier tables did not keep calibrated windows apart, nor accuracy; hub/database/migrations.py takes them over
    metadata,
    Column("model", _characters(64), primary_key=True),
    Column("version", _characters(64), primary_key=True),
    Column("cohort", _characters(64), primary_key=True),
    Column("start", BigInteger, primary_key=True),
    Column("seconds", BigInteger, primary_key=True),
    Column("calibrated", Boolean, primary_key=True),
    Column("about", _characters(16), primary_key=True),  # empty: the release's signals
    Column("first_tested_at", BigInteger, nullable=False),
    Column("tested_at", BigInteger, nullable=False),  # the last time: again for every window that comes late
    Column("alarm", Boolean, nullable=False),
    Column("body", Text, nullable=False),
    # A running rollout asks for the first two again and again, a cohort that is no longer tested for the third, pruning for the last.
    Index("drift_tests_by_release", "model", "version", "first_tested_at"),
    Index("drift_tests_alarmed", "model", "version", "alarm", "tested_at"),
    Index("drift_tests_by_cohort", "model", "cohort", "about", "start"),
    Index("drift_tests_by_age", "tested_at"),
)

# The test that is retained on each model's topic: a broker without it is given this, however many tests are kept.
newest_drifts = Table(
    "newest_drifts",
    metadata,
    Column("model", _characters(64), primary_key=True),
    Column("tested_at", BigInteger, nullable=False),
    Column("body", Text, nullable=False),
)

# What of an interval the detector has counted: what comes later is the difference.
counted = Table(
    "counted",
    metadata,
    *_interval_key(),
    Column("part", Text, nullable=False),
    Column("at", BigInteger, nullable=False, index=True),
)

# A stream: one release in one cohort, over time.
streams = Table(
    "streams",
    metadata,
    Column("release", LargeBinary(32), primary_key=True),
    Column("cohort", _characters(64), primary_key=True),
    Column("model", _characters(64), nullable=False),
    Column("state", LargeBinary, nullable=False),
    Column("log_evidence", Double, nullable=False),
    Column("episode", Text),
    Column("at", BigInteger, nullable=False, index=True),
)

alerts = Table(
    "alerts",
    metadata,
    Column("id", _serial, primary_key=True, autoincrement=True),
    Column("at", BigInteger, nullable=False),
    Column("kind", _characters(32), nullable=False),
    Column("model", _characters(64)),
    Column("body", Text, nullable=False),
    Index("alerts_by_age", "at"),
    Index("alerts_by_kind", "kind", "at"),
)

refusals = Table(
    "refusals",
    metadata,
    Column("id", _serial, primary_key=True, autoincrement=True),
    Column("at", BigInteger, nullable=False),
    Column("topic", _characters(256), nullable=False),
    Column("code", _characters(64), nullable=False),
    Column("reason", Text, nullable=False),
    Index("refusals_by_age", "at"),
)

retained = Table(
    "retained",
    metadata,
    Column("digest", LargeBinary(32), primary_key=True),
    Column("bytes", BigInteger, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
)

publishes = Table(
    "publishes",
    metadata,
    Column("digest", LargeBinary(32), primary_key=True),
    Column("count", BigInteger, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("last_at", BigInteger, nullable=False, server_default="0"),
)

events = Table(
    "events",
    metadata,
    Column("id", _serial, primary_key=True, autoincrement=True),
    Column("at", BigInteger, nullable=False),
    Column("kind", _characters(32), nullable=False),
    Column("text", Text, nullable=False),
    Column("body", Text, nullable=False),
    Column("actor", _characters(64)),  # Name of the person or program that changed the fleet, where that is what happened.
    Index("events_by_actor", "actor"),
)

# Enrolment. `revision` rises with every change of an enrolment, so that a running hub reads only what is new.
enrolment_tokens = Table(
    "enrolment_tokens",
    metadata,
    Column("digest", LargeBinary(32), primary_key=True),
    Column("node", _characters(64), nullable=False, index=True),
    Column("cohort", _characters(64), nullable=False),
    Column("labels", Text, nullable=False),
    Column("made_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
    Column("used_at", BigInteger),
    Column("public_key", LargeBinary),
    Column("serial", _characters(40)),
)

enrolments = Table(
    "enrolments",
    metadata,
    Column("node", _characters(64), primary_key=True),
    Column("public_key", LargeBinary, nullable=False),
    Column("earlier_key", LargeBinary),
    Column("cohort", _characters(64), nullable=False),
    Column("labels", Text, nullable=False),
    Column("enrolled_at", BigInteger, nullable=False),
    Column("renewed_at", BigInteger, nullable=False),
    Column("revoked_at", BigInteger),
    Column("serial", _characters(40), nullable=False),
    Column("revision", BigInteger, nullable=False, index=True),
)

certificates = Table(
    "certificates",
    metadata,
    Column("serial", _characters(40), primary_key=True),
    Column("name", _characters(255), nullable=False, index=True),
    Column("kind", _characters(8), nullable=False),
    Column("not_after", BigInteger, nullable=False, index=True),
    Column("certificate", LargeBinary, nullable=False),
    Column("revoked_at", BigInteger, index=True),
)

# Devices over their life: names that operators have forgotten or given to new hardware. `revision` as in enrolments.
device_lives = Table(
    "device_lives",
    metadata,
    Column("node", _characters(64), primary_key=True),
    Column("state", _characters(16), nullable=False),
    Column("at", BigInteger, nullable=False),
    Column("expires_at", BigInteger),
    Column("old_key", LargeBinary),
    Column("fingerprint", LargeBinary),
    Column("reported_at", BigInteger),
    Column("revision", BigInteger, nullable=False, index=True),
    Column("actor", _characters(64)),
)

# Names that two devices use.
duplicate_nodes = Table(
    "duplicate_nodes",
    metadata,
    Column("node", _characters(64), primary_key=True),
    Column("since", BigInteger, nullable=False),
    Column("last_at", BigInteger, nullable=False),
)

# Names in which a device speaks with another key than the one that counts; `fingerprint` is that key's SHA-256.
other_keys = Table(
    "other_keys",
    metadata,
    Column("node", _characters(64), primary_key=True),
    Column("since", BigInteger, nullable=False),
    Column("fingerprint", LargeBinary(32), nullable=False),
)

# Receivers of alerts besides consumers of the topic: webhooks and on_drift hooks. `cursor` is the last alert that was looked at for them.
receivers = Table(
    "receivers",
    metadata,
    Column("name", _characters(128), primary_key=True),
    Column("cursor", BigInteger, nullable=False),
    Column("delivered", BigInteger, nullable=False),
    Column("given_up", BigInteger, nullable=False),
    Column("last_at", BigInteger),
    Column("error", Text, nullable=False),
)

# The outbox: an alert that a receiver has not had yet.
deliveries = Table(
    "deliveries",
    metadata,
    Column("receiver", _characters(128), primary_key=True),
    Column("alert", BigInteger, primary_key=True),
    Column("made_at", BigInteger, nullable=False),
    Column("due_at", BigInteger, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("error", Text, nullable=False),
    Index("deliveries_by_time", "receiver", "due_at"),
)

# Tokens of the API. The token itself is known to its owner alone: `digest` is SHA-256 of it.
api_tokens = Table(
    "api_tokens",
    metadata,
    Column("id", _characters(16), primary_key=True),
    Column("name", _characters(64), nullable=False),
    Column("role", _characters(16), nullable=False),
    Column("digest", LargeBinary(32), nullable=False),
    Column("made_at", BigInteger, nullable=False),
    Column("made_by", _characters(64), nullable=False),
    Column("expires_at", BigInteger, nullable=False),
    Column("revoked_at", BigInteger),
    Index("api_tokens_by_digest", "digest", unique=True),
)

# Requests to the API that carried an Idempotency-Key, the command that each of them has queued, and what was answered besides (JSON), which
# hubs of earlier versions did not keep.
api_requests = Table(
    "api_requests",
    metadata,
    Column("token", _characters(16), primary_key=True),
    Column("key", _characters(64), primary_key=True),
    Column("at", BigInteger, nullable=False),
    Column("digest", LargeBinary(32), nullable=False),
    Column("command", BigInteger, nullable=False),
    Column("besides", Text),
    Index("api_requests_by_age", "at"),
)

# Blueprints that were applied, each revision once; `body` is the file's text as a zstd frame. `same_as` is the earlier revision that had
# the same text, where one was gone back to.
blueprints = Table(
    "blueprints",
    metadata,
    Column("revision", _serial, primary_key=True, autoincrement=True),
    Column("at", BigInteger, nullable=False),
    Column("actor", _characters(64), nullable=False),
    Column("state", _characters(16), nullable=False),
    Column("reason", Text, nullable=False),
    Column("changes", Integer, nullable=False),
    Column("done", Integer, nullable=False),
    Column("finished_at", BigInteger),
    Column("same_as", BigInteger),
    Column("digest", LargeBinary(32), nullable=False),
    Column("body", LargeBinary, nullable=False),
)

# How many nodes served which version of a model at the end of an hour (`counts`, as JSON), and for how long of it the hub heard its nodes.
release_hours = Table(
    "release_hours",
    metadata,
    Column("model", _characters(64), primary_key=True),
    Column("hour", BigInteger, primary_key=True),
    Column("counts", Text, nullable=False),
    Column("listened_seconds", Double, nullable=False),
    Index("release_hours_by_age", "hour"),
)

# Drifts that somebody has looked at: `evidence` is the stream's (log10) at that time.
known_drifts = Table(
    "known_drifts",
    metadata,
    Column("model", _characters(64), primary_key=True),
    Column("version", _characters(64), primary_key=True),
    Column("cohort", _characters(64), primary_key=True),
    Column("about", _characters(16), primary_key=True),
    Column("at", BigInteger, nullable=False),
    Column("evidence", Double, nullable=False),
    Column("actor", _characters(64), nullable=False),
)

# Who is signed in to the console. `digest` is SHA-256 of the cookie; `token` is the API token that the session ends with. `looked_at` is
# when its owner looked last, and `before_at` when the visit before this one ended.
console_sessions = Table(
    "console_sessions",
    metadata,
    Column("digest", LargeBinary(32), primary_key=True),
    Column("name", _characters(64), nullable=False),
    Column("role", _characters(16), nullable=False),
    Column("token", _characters(16)),
    Column("made_at", BigInteger, nullable=False),
    Column("used_at", BigInteger, nullable=False),
    Column("looked_at", BigInteger, nullable=False),
    Column("before_at", BigInteger),
)

# Links that sign somebody in to the console once. `digest` is SHA-256 of what the link carries.
console_links = Table(
    "console_links",
    metadata,
    Column("digest", LargeBinary(32), primary_key=True),
    Column("name", _characters(64), nullable=False),
    Column("role", _characters(16), nullable=False),
    Column("expires_at", BigInteger, nullable=False),
)

# Signed documents, TUF metadata among them, where several hubs share one PostgreSQL: in place of files below `trust/`. The other table
# counts changes, in one row.
documents = Table(
    "documents",
    metadata,
    Column("path", _characters(512), primary_key=True),
    Column("body", LargeBinary, nullable=False),
    Column("changed", BigInteger, nullable=False),
)
document_changes = Table(
    "document_changes",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("number", BigInteger, nullable=False),
)

# Who leads, in one row: each leader takes the next term, and signs under it.
leadership = Table(
    "leadership",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("term", BigInteger, nullable=False),
    Column("holder", _characters(256), nullable=False),
    Column("since", BigInteger, nullable=False),
)

# Processes of a hub whose roles are apart. `beat_at` is by the database's clock.
members = Table(
    "members",
    metadata,
    Column("name", _characters(128), primary_key=True),
    Column("roles", _characters(64), nullable=False),
    Column("shard", _characters(16), nullable=False),
    Column("host", _characters(256), nullable=False),
    Column("pid", BigInteger, nullable=False),
    Column("version", _characters(64), nullable=False),
    Column("since", BigInteger, nullable=False),
    Column("beat_at", Double, nullable=False),
    Column("listens", Boolean, nullable=False),
    Column("term", BigInteger, nullable=False),
    Column("packet_bytes_max", BigInteger),
    Column("folder", Text, nullable=False, server_default=""),
)

# What is wrong with a process of the hub now; a row is deleted when it is mended. `about` tells several of one code apart, such as keys.
troubles = Table(
    "troubles",
    metadata,
    Column("process", _characters(128), primary_key=True),
    Column("code", _characters(64), primary_key=True),
    Column("about", _characters(64), primary_key=True),
    Column("since", BigInteger, nullable=False),
    Column("text", Text, nullable=False),
)

# What each process that takes windows in knows of its session at the broker: `heard_at` is until when it has taken in all that came, on the
# monotonic clock of the boot of a machine; `is_judged` is false while it connects, until it is written down what a lost session means.
window_sessions = Table(
    "window_sessions",
    metadata,
    Column("process", _characters(128), primary_key=True),
    Column("boot", _characters(64), nullable=False),
    Column("heard_at", Double),
    Column("is_judged", Boolean, nullable=False),
)

# Nodes that a process still asks to send windows again, which a broker may have lost. `since` and `until` are on the clock of `heard_at`;
# `asked_at` and `due_at` are on the clock of listening, and `session` is the node's when it was asked.
window_requests = Table(
    "window_requests",
    metadata,
    Column("process", _characters(128), primary_key=True),
    Column("node", _characters(64), primary_key=True),
    Column("number", BigInteger, nullable=False),
    Column("since", Double),
    Column("until", Double),
    Column("asks", BigInteger, nullable=False),
    Column("asked_at", Double, nullable=False),
    Column("due_at", Double, nullable=False),
    Column("session", BigInteger, nullable=False),
)

# Nodes of which something was written, each with the transaction that did so last: by it other processes read what is new to them.
touched_nodes = Table(
    "touched_nodes",
    metadata,
    Column("node", _characters(64), primary_key=True),
    Column("xact", BigInteger, nullable=False, index=True),
)
