"""Decide which documents a node refuses now: by its own state where it reports that, and by its receipts where it is an older node.

An older node reports a refusal once, in a receipt without a release. It holds until a later receipt shows that the document, or its
successor, was taken: one about a release of the model; for the trust bundle, one that says what is served.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from schemas.errors import Code
from schemas.receipt import Receipt
from schemas.state import Finding, State

SITE = "site"
TRUST = "trust"
# An older bundle at the broker is refused, and the node has followed a newer one: that keeps it from no release. It waits for the clock.
_HARMLESS = frozenset({Code.TRUST_ROLLBACK, Code.CLOCK_UNKNOWN})
DOCUMENTS = {
    TRUST: "the trust bundle",
    "settings": "its settings",
    "rollout": "the rollout",
    "model": "the model bundle",
    "release": "the release",
}


@dataclass(frozen=True, slots=True)
class Reported:
    """Hold a refusal that a receipt reported."""

    sequence: int
    finding: Finding


def fold(refused: Mapping[str, Reported], receipt: Receipt) -> Mapping[str, Reported]:
    """Return a node's refusals by model, "" for the trust bundle, after a receipt."""
    model, found = receipt.model or "", dict(refused)
    if receipt.outcome == "refused" and receipt.digest is None:
        if _is_document(receipt.code) and (model not in found or found[model].sequence < receipt.sequence):
            kind = "model" if model else TRUST
            found[model] = Reported(
                receipt.sequence, Finding(kind=kind, model=receipt.model, code=receipt.code, reason=receipt.reason[:256])
            )
        return found
    taken = {model} | ({""} if receipt.outcome == "serving" else set())
    return {key: one for key, one in found.items() if key not in taken or one.sequence > receipt.sequence}


def findings_of(state: State, refused: Mapping[str, Reported]) -> tuple[Finding, ...]:
    """Return what is wrong with a node now."""
    if state.findings is not None:
        return state.findings
    return tuple(one.finding for _, one in sorted(refused.items()))


def standing_against(findings: tuple[Finding, ...], *, model: str, version: str) -> Iterator[Finding]:
    """Yield the findings that keep a node from a release; that a document has expired for it is no fault of one: see tally.DEVICES_OWN."""
    for one in findings:
        if one.kind == SITE or one.code == Code.TRUST_EXPIRED or (one.kind == TRUST and one.code in _HARMLESS):
            continue
        if one.kind == TRUST or (one.model == model and one.version in {None, version}):
            yield one


def of_clock(findings: tuple[Finding, ...]) -> Finding | None:
    """Return what a node says of its clock, where it activates nothing until a time that it does not believe in yet."""
    return next((one for one in findings if one.kind == TRUST and one.code == Code.CLOCK_UNKNOWN), None)


def in_words(one: Finding) -> str:
    """Return `refuses the rollout of delay: ... [schema.unsupported]`, or what is wrong with a file of the site."""
    if one.kind == SITE or one.code in {Code.CLOCK_UNKNOWN, Code.RECEIPT_KEY_CHANGED}:
        return f"{one.reason} [{one.code}]"
    about = f" of {one.model}" if one.model and one.kind != "release" else f" {one.model}@{one.version}" if one.model else ""
    return f"refuses {DOCUMENTS.get(one.kind, one.kind)}{about}: {one.reason} [{one.code}]"


def _is_document(code: str) -> bool:
    return code.startswith(("schema.", "trust.")) or code == Code.NAME_INVALID
