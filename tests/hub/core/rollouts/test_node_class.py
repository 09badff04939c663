"""Every node stands in exactly one class, with a sentence that says why."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.core.rollouts.fleet import Failure, Node, Serving, report
from hub.core.rollouts.listening import Listened
from hub.core.rollouts.node_class import CLASSES, ClassName, class_of, totals
from hub.core.rollouts.tally import tally
from schemas.deployments import Deployment, Stage
from schemas.errors import Code
from schemas.rollout import Gate, ReleaseRef
from schemas.state import Finding, Slot, State

OLD, NEW = ReleaseRef("1.0.0", b"\0" * 32), ReleaseRef("1.1.0", b"\1" * 32)
DEPLOYMENT = Deployment(name="default", release=NEW, fallback=OLD, state="running", rollout=bytes(16), started=1)


def node(*, serves: ReleaseRef | None = OLD, slot: dict[str, object] | None = None, failure: Failure | None = None) -> Node:
    slots = (Slot.model_validate({"model": "m", "state": "active", "target": NEW.digest, **slot}),) if slot is not None else ()
    state = State(node="jfk-2", session=1, status="online", at=1, slots=slots)
    serving = {"m": Serving(serves.version, serves.digest, 1)} if serves is not None else {}
    return Node(state, "online", 1, 1, b"", serving=serving, failures={("m", NEW.digest): failure} if failure is not None else {})


def found(
    one: Node, deployment: Deployment = DEPLOYMENT, *, heard: bool = True, failed_from: int = 0, now: int = 10
) -> tuple[ClassName, str]:
    result = class_of(deployment, one, model="m", heard=heard, silent_seconds=22_320, failed_from=failed_from, now=now)
    return result.name, result.code or result.sentence


@pytest.mark.parametrize(
    ("slot", "expected"),
    [
        (None, ("moving", "was reached, and has not begun yet")),
        ({"state": "fetching", "bytes_planned": 200, "bytes_received": 50}, ("moving", "is fetching, 25 %")),
        ({"state": "fetching", "code": "disk.full"}, ("moving", "disk.full")),
        ({"state": "out_of_budget", "code": "budget.day"}, ("waiting", "budget.day")),
        ({"state": "out_of_budget", "code": "window.closed"}, ("waiting", "window.closed")),
        ({"state": "staged", "code": "window.closed"}, ("waiting", "window.closed")),
        ({"state": "testing"}, ("moving", "is testing")),
        ({"state": "shadow"}, ("moving", "is compared beside what it serves")),
        ({"state": "active", "target": OLD.digest}, ("moving", "was reached, and has not begun yet")),
    ],
)
def test_a_node_that_was_reached_says_how_far_it_is_or_what_it_waits_for(slot: dict[str, object] | None, expected: tuple[str, str]) -> None:
    assert found(node(slot=slot)) == expected


def test_a_node_whose_disk_takes_nothing_is_held_up_by_it_before_it_has_begun() -> None:
    one = node()
    full = Finding(kind="site", code=str(Code.DISK_FULL), reason="the disk takes nothing")
    one = replace(one, state=one.state.model_copy(update={"findings": (full,)}))

    assert found(one) == ("moving", Code.DISK_FULL)


@pytest.mark.parametrize(("kind", "about"), [("trust", None), ("rollout", "m"), ("model", "m")])
def test_a_node_whose_clock_makes_documents_expire_has_not_failed_and_says_so(kind: str, about: str | None) -> None:
    one = node()
    finding = Finding(kind=kind, model=about, code=str(Code.TRUST_EXPIRED), reason="they expired")
    one = replace(one, state=one.state.model_copy(update={"findings": (finding,)}))

    assert found(one) == ("moving", Code.TRUST_EXPIRED)
    assert report(one, DEPLOYMENT, model="m", listened=Listened(0.0)).failed_at is None


def test_a_failure_counts_until_it_was_seen_or_the_release_is_served_after_all() -> None:
    failure = Failure("refused", Code.MODEL_GOLDEN, received_at=5)
    assert found(node(failure=failure)) == ("refused", Code.MODEL_GOLDEN)
    assert found(node(failure=failure), heard=False)[0] == "refused"
    assert found(node(failure=failure), failed_from=6)[0] == "moving"
    assert found(node(failure=failure, serves=NEW))[0] == "serving"
    assert found(node(failure=Failure("rolled_back", Code.PROBATION_ERRORS, 5), serves=None))[0] == "rolled_back"


def test_a_node_that_reports_another_release_since_its_receipt_counts_as_serving_nowhere() -> None:
    """As after a restore of an older database: until it signs again, its receipt proves what it served then."""
    newer, done = b"\2" * 32, DEPLOYMENT.model_copy(update={"state": "done"})
    one = node(serves=NEW, slot={"serving": newer, "serving_version": "1.2.0"})
    refusing = Finding(kind="rollout", model="m", code=str(Code.TRUST_ROLLBACK), reason="behind")

    assert found(one, done)[0] == "serving"  # The report is not newer than the receipt.
    since = replace(one, state=one.state.model_copy(update={"at": 2}))
    assert found(since, done) == ("moving", "reports that it serves 1.2.0, and its last receipt is of 1.1.0: it is asked to sign again")
    refuses = replace(since, state=since.state.model_copy(update={"findings": (refusing,)}))
    assert found(refuses, done) == ("refused", Code.TRUST_ROLLBACK)
    assert report(refuses, done, model="m", listened=Listened(0.0)).serving is False


def test_silence_a_later_stage_a_halt_and_a_deadline_are_classes_of_their_own() -> None:
    assert found(node(serves=NEW), heard=False) == ("unreachable", "was not heard for 6 h 12 min")
    later = DEPLOYMENT.model_copy(update={"stages": (Stage(1), Stage(100)), "threshold": 0})
    assert found(node(), later) == ("waiting", "waits for a later stage")
    assert found(node(), DEPLOYMENT.model_copy(update={"state": "halted"})) == ("waiting", "waits: the rollout is halted")
    late = DEPLOYMENT.model_copy(update={"deadline": 10})
    assert found(node(), late) == ("expired", "the deadline has passed; it stays on 1.0.0")
    assert found(node(), late, now=9)[0] == "moving"
    assert found(node(serves=NEW), late)[0] == "serving"


def test_after_going_back_a_node_serves_its_own_or_is_on_its_way() -> None:
    back = DEPLOYMENT.model_copy(update={"state": "rolled_back"})
    assert found(node(serves=NEW), back) == ("moving", "goes back")
    assert found(node(failure=Failure("rolled_back", Code.ROLLOUT_TAKEN_BACK, 5)), back) == ("serving", "serves 1.0.0")


def test_a_node_that_serves_nothing_after_going_back_is_in_no_class_of_serving() -> None:
    back = DEPLOYMENT.model_copy(update={"state": "rolled_back"})
    first = back.model_copy(update={"fallback": None})
    fetching = {"state": "fetching", "target": OLD.digest, "bytes_planned": 4, "bytes_received": 1}
    failed = replace(node(serves=None), failures={("m", OLD.digest): Failure("refused", Code.MODEL_LOAD, 5)})

    assert found(node(serves=None), first) == ("waiting", Code.ROLLOUT_TAKEN_BACK)
    assert found(node(serves=None), back)[0] == "moving"
    assert found(node(serves=None, slot=fetching), back) == ("moving", "serves nothing, and is to serve 1.0.0: is fetching, 25 %")
    assert found(failed, back) == ("refused", Code.MODEL_LOAD)
    assert found(node(serves=None), first, heard=False)[0] == "unreachable"


def test_a_device_with_another_key_is_a_node_that_cannot_be_reached_with_the_mend() -> None:
    one = replace(node(serves=NEW), other_key=b"k" * 32)
    deployment = DEPLOYMENT.model_copy(update={"state": "running"})

    assert report(one, deployment, model="m", listened=one.heard_at).heard is False
    assert found(one, heard=False) == ("unreachable", Code.RECEIPT_KEY_CHANGED)
    of = class_of(DEPLOYMENT, one, model="m", heard=False, silent_seconds=1, failed_from=0, now=10)
    assert of.sentence.endswith("`fleetcast nodes replace jfk-2` lets it in")


def test_a_node_that_waits_for_the_time_of_a_signature_says_so_and_has_not_failed() -> None:
    finding = Finding(kind="trust", code=Code.CLOCK_UNKNOWN, reason="the clock here says 09:00, and the hub has signed at 12:00")
    one = node()
    one = replace(one, state=one.state.model_copy(update={"findings": (finding,)}))

    assert found(one) == ("waiting", Code.CLOCK_UNKNOWN)
    assert report(one, DEPLOYMENT, model="m", listened=Listened(0.0)).failed_at is None
    served = replace(one, serving=node(serves=NEW).serving)
    assert found(served) == ("serving", "serves 1.1.0")


def test_a_refused_document_is_one_failure_for_the_gate_and_for_the_class() -> None:
    finding = Finding(kind="rollout", model="m", code="schema.unsupported", reason="why")
    one = node(failure=Failure("rolled_back", Code.PROBATION_ERRORS, 2))
    one = replace(one, state=one.state.model_copy(update={"findings": (finding,)}))
    retrying = DEPLOYMENT.model_copy(update={"gate": Gate(retries=3)})

    for deployment, failed_from, tries_from in ((DEPLOYMENT, 1, 1), (retrying, 5, 1), (DEPLOYMENT, 5, 5), (retrying, 1, 1)):
        counts = report(one, deployment, model="m", listened=Listened(0.0), failed_from=failed_from, tries_from=tries_from)
        of = class_of(deployment, one, model="m", heard=True, silent_seconds=0, failed_from=failed_from, tries_from=tries_from, now=10)
        assert (counts.failed_at is not None, counts.outcome) == (of.name == counts.outcome, of.name if of.code else "refused")
    assert found(one, retrying, failed_from=5) == ("moving", "was reached, and has not begun yet")  # An operator has seen it.


states = st.sampled_from(["running", "halted", "done", "rolled_back"])
slots = st.sampled_from([None, {"state": "fetching"}, {"state": "out_of_budget", "code": "budget.day"}, {"state": "testing"}])
failures = st.none() | st.builds(Failure, st.sampled_from(["refused", "rolled_back"]), st.just("model.golden"), st.integers(0, 9))


@given(
    st.lists(st.tuples(st.sampled_from([None, OLD, NEW]), slots, failures, st.booleans()), max_size=6),
    states,
    st.none() | st.integers(0, 20),
    st.sampled_from([0, 2**64 - 1]),
)
def test_the_gate_and_the_list_of_nodes_count_the_same(
    drawn: list[tuple[ReleaseRef | None, dict[str, object] | None, Failure | None, bool]],
    state: str,
    deadline: int | None,
    threshold: int,
) -> None:
    stages = (Stage(1), Stage(100)) if threshold == 0 else (Stage(100),)
    deployment = DEPLOYMENT.model_copy(update={"state": state, "deadline": deadline, "threshold": threshold, "stages": stages})
    nodes = [(node(serves=serves, slot=slot, failure=failure), heard) for serves, slot, failure, heard in drawn]
    classes = totals(class_of(deployment, one, model="m", heard=heard, silent_seconds=1, failed_from=5, now=10) for one, heard in nodes)
    reports = [replace(report(one, deployment, model="m", listened=Listened(0.0), failed_from=5), heard=heard) for one, heard in nodes]
    counted = tally(deployment, reports, judged_from=5, now=10)

    assert sum(classes.values()) == len(nodes)
    assert counted.addressed == counted.heard + counted.silent
    assert counted.expired == classes["expired"]
    assert counted.failed <= classes["refused"] + classes["rolled_back"]
    if state != "rolled_back" and threshold:
        assert counted.serving == classes["serving"]
        assert counted.addressed + counted.expired == len(nodes)


def test_the_classes_add_up_to_the_nodes() -> None:
    nodes = [node(), node(serves=NEW), node(failure=Failure("refused", Code.MODEL_GOLDEN, 5))]
    classes = [class_of(DEPLOYMENT, one, model="m", heard=True, silent_seconds=0, failed_from=0, now=1) for one in nodes]
    assert sum(totals(classes).values()) == len(nodes)
    assert tuple(totals(classes)) == CLASSES
