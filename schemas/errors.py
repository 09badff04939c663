"""Define the two kinds of expected error, and the closed list of codes that receipts, alerts and exit codes carry.

`Refused`: the message is wrong; report it and keep what works. `Unreachable`: a peer or disk did not answer; retry with backoff and jitter.
Any other exception is our own bug, and is logged as one.
"""

from enum import StrEnum
from typing import Final


class Code(StrEnum):
    """Name why something was refused; fleetcast/error_help.py explains each code."""

    SCHEMA_MALFORMED = "schema.malformed"
    SCHEMA_TOO_LARGE = "schema.too_large"
    SCHEMA_UNSUPPORTED = "schema.unsupported"
    TRUST_SIGNATURE = "trust.signature"
    TRUST_ROLLBACK = "trust.rollback"
    TRUST_EXPIRED = "trust.expired"
    TRUST_MISMATCH = "trust.mismatch"
    TRUST_INCOMPLETE = "trust.incomplete"
    TRUST_NOT_LISTED = "trust.not_listed"
    CLOCK_UNKNOWN = "clock.unknown"
    BLOCK_DIGEST = "block.digest_mismatch"
    BLOCK_DECODE = "block.decode_failed"
    BLOCK_TOO_LARGE = "block.too_large"
    BLOCK_TIMEOUT = "block.timeout"
    BLOCK_PARENT = "block.wrong_parent"
    BLOCKS_SLOW = "blocks.slow"
    BLOCKS_UNREACHABLE = "blocks.unreachable"
    ARTIFACT_DIGEST = "artifact.digest_mismatch"
    ARTIFACT_PATH = "artifact.bad_path"
    DISK_DAMAGED = "disk.damaged"
    DISK_FULL = "disk.full"
    DISK_QUOTA = "disk.quota"
    STORE_DAMAGED = "store.damaged"
    DATABASE_DAMAGED = "database.damaged"
    METADATA_DAMAGED = "metadata.damaged"
    BUDGET_DAY = "budget.day"
    BUDGET_ROLLOUT = "budget.rollout"
    BUDGET_HOURS = "budget.hours"
    BUDGET_FULL = "budget.full_download"
    PACKET_TOO_SMALL = "packet.too_small"
    RELEASE_NO_VARIANT = "release.no_variant"
    RELEASE_CONFLICT = "release.conflict"
    RELEASE_UNKNOWN = "release.unknown"
    RELEASE_UNCHECKED = "release.unchecked"
    RELEASE_BREAKING = "release.breaking"
    RELEASE_NEEDED = "release.needed"
    RELEASE_TOO_OLD = "release.too_old"
    MODEL_LOAD = "model.load_failed"
    MODEL_RUN = "model.run_failed"
    MODEL_SIGNATURE = "model.signature_mismatch"
    MODEL_GOLDEN = "model.golden_mismatch"
    MODEL_TOO_SLOW = "model.too_slow"
    MODEL_TOO_LARGE = "model.too_large"
    MODEL_EXTERNAL_DATA = "model.external_data"
    MODEL_NOT_FINITE = "model.not_finite"
    RUNTIME_ABSENT = "runtime.absent"
    VARIANT_FAILED = "variant.failed"
    VARIANT_LOSS = "variant.loss"
    PARAMETER_BOUNDS = "parameter.bounds"
    PARAMETER_UNKNOWN = "parameter.unknown"
    WORKER_CRASHED = "worker.crashed"
    WORKER_HUNG = "worker.hung"
    SHADOW_DISAGREES = "shadow.disagrees"
    PROBATION_ERRORS = "probation.errors"
    PROBATION_LATENCY = "probation.latency"
    PROBATION_CUT = "probation.cut_short"
    REQUEST_INVALID = "request.invalid"
    REQUEST_FOREIGN = "request.foreign"
    REQUEST_CONTENT_TYPE = "request.content_type"
    REQUEST_TOKEN = "request.token"  # noqa: S105  # a code, not a secret
    REQUEST_ROLE = "request.role"
    REQUEST_UNKNOWN = "request.unknown"
    REQUEST_STALE = "request.stale"
    REQUEST_REPEATED = "request.repeated"
    REQUEST_CROWDED = "request.crowded"
    REFERENCE_INVALID = "reference.invalid"
    GOLDEN_INVALID = "golden.invalid"
    KEY_UNREADABLE = "key.unreadable"
    KEY_PASSPHRASE = "key.passphrase"  # noqa: S105  # a code, not a secret
    KEY_NOT_AUTHORISED = "key.not_authorised"
    NAME_INVALID = "name.invalid"
    NAME_TAKEN = "name.taken"
    BLUEPRINT_INVALID = "blueprint.invalid"
    BLUEPRINT_BUSY = "blueprint.busy"
    BLUEPRINT_HELD = "blueprint.held"
    ROLLOUT_TAKEN_BACK = "rollout.taken_back"
    ROLLOUT_INVALID = "rollout.invalid"
    WINDOW_RELEASE = "window.unknown_release"
    WINDOW_SHAPE = "window.wrong_shape"
    WINDOW_ABSURD = "window.absurd"
    WINDOW_FUTURE = "window.future"
    WINDOW_PAST = "window.too_old"
    WINDOW_COHORT = "window.unknown_cohort"
    WINDOW_OVERWEIGHT = "window.overweight"
    WINDOW_OUTLIER = "window.outlier"
    WINDOW_ACCURACY = "window.no_accuracy"
    LABELS_RELEASE = "labels.unknown_release"
    LABELS_FUTURE = "labels.future"
    LABELS_OLD = "labels.too_old"
    LABELS_CLOSED = "labels.closed"
    LABELS_EXCESS = "labels.too_many"
    ROWS_NOT_FINITE = "rows.not_finite"
    ROWS_UNSEEN = "rows.unseen_category"
    ROWS_DATATYPE = "rows.datatype"
    ROWS_SHAPE = "rows.wrong_shape"
    ROWS_LATE = "rows.late"
    ROWS_FUTURE = "rows.future"
    LEDGER_SPENT = "ledger.spent"
    LEDGER_TAMPERED = "ledger.tampered"
    LEDGER_ROLLED_BACK = "ledger.rolled_back"
    RECEIPT_SIGNATURE = "receipt.signature"
    RECEIPT_UNKNOWN_NODE = "receipt.unknown_node"
    RECEIPT_KEY_CHANGED = "receipt.key_changed"
    INBOX_FLOODED = "inbox.flooded"
    ENROLMENT_TOKEN = "enrolment.token"  # noqa: S105  # a code, not a secret
    ENROLMENT_PIN = "enrolment.pin"
    ENROLMENT_REQUEST = "enrolment.request"
    ENROLMENT_REVOKED = "enrolment.revoked"
    ENROLMENT_CROWDED = "enrolment.crowded"
    CERTIFICATE_INVALID = "certificate.invalid"
    SETTINGS_INVALID = "settings.invalid"
    SELECTOR_INVALID = "selector.invalid"
    WINDOW_INVALID = "window.invalid"
    WINDOW_CLOSED = "window.closed"
    PORT_IN_USE = "port.in_use"
    NODE_RUNNING = "node.running"
    NODE_DUPLICATE = "node.duplicate"
    HUB_RUNNING = "hub.running"
    HUB_DUPLICATE = "hub.duplicate"
    BROKER_SHARED = "broker.shared"
    SHARD_GAP = "shard.gap"
    SHARD_OVERLAP = "shard.overlap"
    ROLE_MISSING = "role.missing"
    LEADER_CLOCK = "leader.clock"
    CLOCK_STEPPED = "clock.stepped"
    NODE_ENROLLED = "node.enrolled"
    NODE_FORGOTTEN = "node.forgotten"
    NODE_UNKNOWN = "node.unknown"


class FleetcastError(Exception):
    """Be the base of the two kinds of expected error; the text is a whole sentence for a person."""

    mend = ""  # What mends it, for programs that show it; fleetcast/error_help.py has it for each code.


class Refused(FleetcastError):
    """Report that the message or file is wrong: report its code, keep what works, change nothing."""

    def __init__(self, code: Code, reason: str) -> None:
        super().__init__(reason)
        self.code: Final = code
        self.reason: Final = reason

    def __str__(self) -> str:
        return f"{self.reason} [{self.code}]"


class Unreachable(FleetcastError):
    """Report that the peer, broker or disk did not answer. Retry with backoff and jitter; nothing is wrong with the message."""


def mismatch(code: Code, what: str, *, expected: object, actual: object) -> Refused:
    """Return a refusal that names both sides."""
    return Refused(code, f"{what}: expected {expected}, found {actual}")
