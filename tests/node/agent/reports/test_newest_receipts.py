"""Which receipts a node sends again when the hub lacks some."""

from node.agent.reports.reporter import newest_receipts
from schemas.names import sha256
from schemas.receipt import Receipt


def receipt(sequence: int, outcome: str, version: str | None, *, model: str | None = "delay") -> Receipt:
    digest = sha256(version.encode()) if version else None
    return Receipt.model_validate(
        {"node": "n1", "sequence": sequence, "at": 1, "outcome": outcome, "model": model, "version": version, "digest": digest}
    )


def sent_again(*receipts: Receipt) -> list[int]:
    return sorted(one.sequence for one in newest_receipts(sorted(receipts, key=lambda one: -one.sequence)))


def test_the_served_release_and_each_failure_are_sent_again_once() -> None:
    assert sent_again(
        receipt(1, "serving", "1.0.0"),
        receipt(2, "refused", "1.1.0"),
        receipt(3, "refused", "1.1.0"),
        receipt(4, "serving", "1.2.0"),
        receipt(5, "refused", None),
        receipt(6, "serving", "1.0.0", model="price"),
    ) == [3, 4, 6]


def test_a_release_that_was_rolled_back_is_not_sent_again_as_served() -> None:
    assert sent_again(receipt(1, "serving", "1.0.0"), receipt(2, "serving", "1.1.0"), receipt(3, "rolled_back", "1.1.0")) == [1, 3]
