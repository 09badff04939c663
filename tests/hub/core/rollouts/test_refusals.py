"""Which documents a node refuses now, by what it reported."""

import pytest

from hub.core.rollouts.refusals import findings_of, fold, in_words, standing_against
from schemas.names import sha256
from schemas.receipt import Receipt
from schemas.state import Finding, State

OLDER = State(node="gate-1", session=1, status="online", at=1)


def receipt(sequence: int, outcome: str, *, model: str | None = None, version: str | None = None, code: str = "") -> Receipt:
    digest = sha256(version.encode()) if version else None
    fields = {"node": "gate-1", "sequence": sequence, "at": 1, "outcome": outcome, "model": model, "version": version, "digest": digest}
    return Receipt.model_validate({**fields, "code": code, "reason": "why"})


def standing(*receipts: Receipt, state: State = OLDER) -> list[tuple[str, str | None, str]]:
    refused: object = {}
    for one in receipts:
        refused = fold(refused, one)  # type: ignore[arg-type]
    return [(one.kind, one.model, one.code) for one in findings_of(state, refused)]  # type: ignore[arg-type]


def test_a_refusal_of_an_older_node_holds_until_a_release_of_the_model_is_taken() -> None:
    refused = receipt(1, "refused", model="delay", code="schema.malformed")

    assert standing(refused) == [("model", "delay", "schema.malformed")]
    assert standing(refused, receipt(2, "serving", model="other", version="1.0.0")) == [("model", "delay", "schema.malformed")]
    assert standing(refused, receipt(2, "refused", model="delay", version="1.1.0", code="model.golden_mismatch")) == []
    assert standing(refused, receipt(2, "serving", model="delay", version="1.1.0")) == []


def test_a_refused_trust_bundle_holds_until_something_is_served() -> None:
    refused = receipt(1, "refused", code="schema.unsupported")

    assert standing(refused) == [("trust", None, "schema.unsupported")]
    assert standing(refused, receipt(2, "serving", model="delay", version="1.1.0")) == []


def test_an_older_receipt_that_comes_late_clears_nothing() -> None:
    assert standing(receipt(5, "refused", model="delay", code="schema.malformed"), receipt(4, "serving", model="delay", version="1.0.0"))


@pytest.mark.parametrize("code", ["settings.invalid", "block.digest_mismatch", "parameter.unknown", "disk.full"])
def test_what_is_no_document_is_no_refusal_of_one(code: str) -> None:
    assert standing(receipt(1, "refused", code=code)) == []


def test_a_node_that_reports_its_findings_is_taken_at_its_word() -> None:
    refused = receipt(1, "refused", model="delay", code="schema.malformed")
    finding = Finding(kind="rollout", model="other", code="schema.unsupported", reason="why")

    assert standing(refused, state=OLDER.model_copy(update={"findings": ()})) == []
    assert standing(refused, state=OLDER.model_copy(update={"findings": (finding,)})) == [("rollout", "other", "schema.unsupported")]


@pytest.mark.parametrize(
    ("finding", "stands"),
    [
        (Finding(kind="trust", code="schema.unsupported"), True),
        (Finding(kind="trust", code="trust.rollback"), False),
        (Finding(kind="trust", code="trust.expired"), False),
        (Finding(kind="rollout", model="delay", code="schema.malformed"), True),
        (Finding(kind="rollout", model="delay", code="trust.expired"), False),
        (Finding(kind="model", model="delay", code="trust.expired"), False),
        (Finding(kind="rollout", model="other", code="schema.malformed"), False),
        (Finding(kind="release", model="delay", version="1.1.0", code="schema.malformed"), True),
        (Finding(kind="release", model="delay", version="1.0.0", code="schema.malformed"), False),
        (Finding(kind="site", model="delay", code="settings.invalid"), False),
        (Finding(kind="later", model="delay", code="later.kind"), True),
    ],
)
def test_only_documents_that_a_release_needs_stand_against_it(finding: Finding, stands: bool) -> None:
    assert bool([*standing_against((finding,), model="delay", version="1.1.0")]) is stands


def test_a_finding_is_a_sentence_with_its_code() -> None:
    assert in_words(Finding(kind="rollout", model="delay", code="a.b", reason="why")) == "refuses the rollout of delay: why [a.b]"
    assert (
        in_words(Finding(kind="release", model="delay", version="1.1.0", code="a.b", reason="why"))
        == "refuses the release delay@1.1.0: why [a.b]"
    )
    assert in_words(Finding(kind="trust", code="a.b", reason="why")) == "refuses the trust bundle: why [a.b]"
    assert in_words(Finding(kind="site", code="a.b", reason="link_file: why")) == "link_file: why [a.b]"
