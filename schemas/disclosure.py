"""Classify every field of every document that leaves a node: what it may say about the rows that were asked there.

`public`: of releases, the hub's documents, the device, its link and its clock; no row changes it.
`charged`: derived from rows under noise, and paid for in the privacy ledger before it leaves.
`verdict`: derived from rows, and no more than one code, or one step, over a stated threshold.
`unwritten`: still read, because earlier nodes write it. `leaving` takes it out of what this program sends.

The table is closed: a field without a row fails the tests (tests/schemas/test_disclosure.py), and counts in `privacy.fields_unclassified`.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final, Literal, NamedTuple, TypeVar, get_args, get_type_hints

from pydantic import BaseModel

from schemas.block_request import Range, Want
from schemas.document import Document
from schemas.enrolment import EnrolmentRequest, Hello, Renewal, SealedRenewal
from schemas.parameters import Setting
from schemas.receipt import Evidence, Receipt, SealedReceipt
from schemas.state import Finding, LeftOut, Profile, SettingsInForce, Slot, State, TelemetryBudget
from schemas.topics import TABLE
from schemas.window import Window

Class = Literal["public", "charged", "verdict", "unwritten"]
D = TypeVar("D", bound=Document)

LEDGER_STEP: Final = 32  # Entries: more than a day of hourly windows, so that no day of rows can be read off the number.


class Field(NamedTuple):
    """Name a field of a document that leaves, by the type that has it, or a level of a topic."""

    owner: str
    name: str


class Disclosed(NamedTuple):
    """State the class of a field, and why that is true; a public field needs no reason."""

    kind: Class
    why: str = ""


# What leaves a node: over the topics that it writes, and over HTTPS to the hub. A sealed document carries the bytes of another one.
DOCUMENTS: Final[Mapping[str, type[Document]]] = {"want": Want, "state": State, "receipt": SealedReceipt, "telemetry": Window}
REQUESTS: Final[tuple[type[Document], ...]] = (Hello, EnrolmentRequest, SealedRenewal)
SEALED: Final[Mapping[Field, type[Document]]] = {Field("SealedReceipt", "body"): Receipt, Field("SealedRenewal", "body"): Renewal}

_PUBLIC: Final[Mapping[type, str]] = {
    Want: "release variant ranges encodings index again choice",
    Range: "first length",
    State: "node session status at software public_key cohort link profile packet_bytes_max root_version timestamp_version stale slots"
    " telemetry findings report_seconds settings left_out",
    Slot: "model serving serving_version target target_version last_good bytes_planned bytes_received bytes_reused bytes_wasted variant"
    " parameters",
    Setting: "name value source code",
    Profile: "arch cores memory_bytes providers labels runtimes",
    TelemetryBudget: "rho_day_max",
    Finding: "kind model version code reason",
    SettingsInForce: "serial display_name ignored",
    LeftOut: "slots parameters reasons",
    SealedReceipt: "body signature",
    Receipt: "node sequence at model version digest since evidence",
    Evidence: "golden_error_max golden_rows load_ms latency_ms memory_bytes bytes_planned bytes_received bytes_reused bytes_wasted variant"
    " threads",
    Window: "id release seconds about",
    Hello: "nonce",
    EnrolmentRequest: "secret request",
    SealedRenewal: "body signature",
    Renewal: "node statement statement_signature request",
}
_ON_DEVICE = "kept on the device: `fleetcast-node status` and `telemetry kept` show it"
_OF_TRIAL = "how a trial of a release ended, by the thresholds in its manifest; the counts stay on the device"
_OTHER: Final[Mapping[type, Mapping[str, Disclosed]]] = {
    Slot: {"state": Disclosed("verdict", _OF_TRIAL), "code": Disclosed("verdict", _OF_TRIAL)},
    TelemetryBudget: {
        "rho_spent": Disclosed("unwritten", _ON_DEVICE),
        "windows_waiting": Disclosed("unwritten", _ON_DEVICE),
        "windows_withheld": Disclosed("unwritten", _ON_DEVICE),
        "windows_merged": Disclosed("unwritten", _ON_DEVICE),
        "windows_dropped": Disclosed("unwritten", _ON_DEVICE),
        "intervals_late": Disclosed("unwritten", _ON_DEVICE),
        "calibrating": Disclosed("charged", "a baseline is made when noisy windows cover enough rows"),
        "ledger_entries": Disclosed("verdict", f"windows and baselines that were charged, rounded up to a multiple of {LEDGER_STEP}"),
        "code": Disclosed("verdict", "`ledger.spent`: a window more would exceed `rho_day_max`; otherwise of the device"),
    },
    Receipt: {
        "outcome": Disclosed("verdict", _OF_TRIAL),
        "code": Disclosed("verdict", _OF_TRIAL),
        "reason": Disclosed("verdict", "the code in words, with the manifest's threshold; otherwise of the release or the device"),
    },
    Evidence: {
        "shadow_rows": Disclosed("unwritten", _ON_DEVICE),
        "shadow_agreement": Disclosed("unwritten", _ON_DEVICE),
        "shadow": Disclosed("verdict", "whether two releases agree on the share of rows that the manifest demands"),
    },
    Window: {
        "start": Disclosed("verdict", "at least one row fell into the interval"),
        "rows": Disclosed("charged", "computed from the noisy counts"),
        "counts": Disclosed("unwritten", "the form of the first nodes"),
        "packed": Disclosed("charged", "counts under noise"),
        "own_rows_log2": Disclosed("charged", "of the noisy baseline, rounded down to a power of two"),
        "units": Disclosed("charged", "windows that were merged while they waited, each of which was charged"),
    },
}
_LEVELS: Final = ("node", "model", "cohort")  # Levels of topics that a node writes; all are public.

CLASSES: Final[Mapping[Field, Disclosed]] = {
    **{Field(owner.__name__, name): Disclosed("public") for owner, names in _PUBLIC.items() for name in names.split()},
    **{Field(owner.__name__, name): found for owner, fields in _OTHER.items() for name, found in fields.items()},
    **{Field("topic", level): Disclosed("public") for level in _LEVELS},
}


def fields() -> Iterator[Field]:
    """Walk every field of every document that leaves a node, nested ones included, and every varying level of its topics."""
    seen: set[Field] = set()
    for document in (*DOCUMENTS.values(), *REQUESTS):
        for field in _fields(document):
            if field not in seen:
                seen.add(field)
                yield field
    for kind in TABLE:
        if kind.writer == "node":
            named = ["node"] if "{node}" in kind.pattern else []
            for level in [*named, *(("model", "cohort")[: kind.pattern.count("{}")])]:
                if (field := Field("topic", level)) not in seen:
                    seen.add(field)
                    yield field


def unclassified() -> tuple[Field, ...]:
    """Return the fields that nobody has classified; there must be none."""
    return tuple(field for field in fields() if field not in CLASSES)


def leaving(document: D) -> D:
    """Return the document as it leaves: fields that are no longer written have their defaults, and the ledger's entries are in steps."""
    return _leaving(document)


M = TypeVar("M", bound=BaseModel)


def _leaving(model: M) -> M:
    changed: dict[str, Any] = {}
    for name, field in type(model).model_fields.items():
        value = getattr(model, name)
        rule = CLASSES.get(Field(type(model).__name__, name))
        if rule is not None and rule.kind == "unwritten":
            # Earlier hubs demand the sum that was spent. A constant says nothing.
            changed[name] = 0.0 if field.is_required() else field.get_default(call_default_factory=True)
        elif isinstance(model, TelemetryBudget) and name == "ledger_entries" and value is not None:
            changed[name] = -(-value // LEDGER_STEP) * LEDGER_STEP
        elif isinstance(value, BaseModel):
            changed[name] = _leaving(value)
        elif isinstance(value, tuple):
            changed[name] = tuple(_leaving(one) if isinstance(one, BaseModel) else one for one in value)
    return model.model_copy(update=changed)


def _fields(owner: type) -> Iterator[Field]:
    for name, annotation in _annotations(owner).items():
        field = Field(owner.__name__, name)
        yield field
        if (sealed := SEALED.get(field)) is not None:
            yield from _fields(sealed)
        for nested in _nested(annotation):
            yield from _fields(nested)


def _annotations(owner: type) -> dict[str, Any]:
    if issubclass(owner, BaseModel):
        return {name: field.annotation for name, field in owner.model_fields.items()}
    return get_type_hints(owner)


def _nested(annotation: Any) -> Iterator[type]:
    """Yield the models and rows that an annotation holds, at any depth."""
    if isinstance(annotation, type) and (issubclass(annotation, BaseModel) or hasattr(annotation, "_fields")):
        yield annotation
    for part in get_args(annotation):
        yield from _nested(part)
