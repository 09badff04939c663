"""What is kept of a node's receipts is what folding them has found."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.core.rollouts import fleet
from hub.core.rollouts.fleet import Node, fold_receipt, without_receipts
from hub.core.rollouts.proof import proof_of, with_proof
from schemas.errors import Refused
from schemas.names import sha256
from schemas.receipt import Evidence, Receipt
from schemas.state import State

BEFORE = Node(State(node="n1", session=1, status="online", at=1), "online", 1, 1, b"key")

receipts = st.builds(
    lambda sequence, outcome, model, release, latency, shadow: Receipt(
        node="n1",
        sequence=sequence,
        at=sequence % 2**31,
        outcome=outcome,
        model=model,
        version=None if release is None else f"1.{release}.0",
        digest=None if release is None else sha256(bytes([release])),
        code="" if outcome == "serving" else "schema.unsupported",
        evidence=Evidence(latency_ms=latency, shadow=shadow),
    ),
    sequence=st.integers(1, 2**53),
    outcome=st.sampled_from(["serving", "refused", "rolled_back"]),
    model=st.sampled_from([None, "delay", "other"]),
    release=st.none() | st.integers(0, 5),
    latency=st.floats(0, 100),
    shadow=st.none() | st.just("passed"),
)


@given(st.lists(st.tuples(receipts, st.integers(0, 3)), max_size=20))
def test_a_proof_brings_back_all_that_receipts_have_proved(found: list[tuple[Receipt, int]]) -> None:
    node = BEFORE
    for receipt, epoch in found:
        node = fold_receipt(node, receipt, received_at=receipt.sequence % 2**31, epoch=epoch)

    assert with_proof(replace(without_receipts(node), refused={}), proof_of(node)) == node


def test_a_proof_of_another_program_is_refused() -> None:
    with pytest.raises(Refused):
        with_proof(BEFORE, b"\x80")


def test_failures_of_long_gone_releases_are_dropped_the_oldest_first() -> None:
    node, count = BEFORE, fleet.FAILED_RELEASES_KEPT + 3
    for number in range(1, count + 1):
        refused = Receipt(node="n1", sequence=number, at=1, outcome="refused", model="delay", digest=sha256(b"%d" % number), code="x")
        node = fold_receipt(node, refused, received_at=number)

    kept = {("delay", sha256(b"%d" % number)) for number in range(4, count + 1)}
    assert node.failures.keys() == node.failed_at.keys() == kept
