"""The fold of states and receipts into a fleet."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.core.rollouts import fleet, gates
from hub.core.rollouts.fleet import Node, fold_receipt, fold_state
from hub.core.rollouts.listening import Listened
from hub.core.rollouts.tally import NodeReport, Tally, tally
from schemas.deployments import DEFAULT, Deployment
from schemas.errors import Code, Refused
from schemas.names import RESERVED_NODES, sha256
from schemas.receipt import Evidence, Receipt
from schemas.rollout import Gate, ReleaseRef
from schemas.state import Profile, Slot, State

KEY, OTHER_KEY = b"key", b"other key"
ONE, TWO = sha256(b"1"), sha256(b"2")


def state(session: int = 1, status: str = "online", **changes: object) -> State:
    key = b"" if status == "lost" else KEY
    fields = {"node": "site-1", "session": session, "status": status, "at": 1000, "public_key": key, **changes}
    return State.model_validate(fields)


def known(*states: State) -> Node:
    node: Node | None = None
    for one in states:
        node = fold_state(node, one, now=2000, listened=Listened(2000.0)) or node
    assert node is not None
    return node


def receipt(sequence: int, outcome: str, digest: bytes = ONE, **changes: object) -> Receipt:
    fields = {"node": "site-1", "sequence": sequence, "at": 1, "outcome": outcome, "model": "delay", "version": "1.0.0", "digest": digest}
    return Receipt.model_validate({**fields, **changes})


def test_a_late_will_of_an_older_session_does_not_overwrite_a_newer_birth() -> None:
    node = known(state(session=2))

    assert fold_state(node, state(session=1, status="lost"), now=2001, listened=Listened(2001.0)) is None


def test_a_will_of_the_present_session_says_lost_and_keeps_what_the_node_said() -> None:
    node = known(state(session=2, cohort="nyc"))

    lost = fold_state(node, state(session=2, status="lost"), now=9999, listened=Listened(9999.0))

    assert lost is not None
    assert (lost.status, lost.state.cohort, lost.last_seen, lost.public_key) == ("lost", "nyc", 2000, KEY)


def test_an_older_sessions_state_is_ignored_where_the_broker_kept_it() -> None:
    assert fold_state(known(state(session=3)), state(session=2), now=2001, listened=Listened(2001.0), old=True) is None


@pytest.mark.parametrize("before", [3, 2**53])
def test_a_node_that_speaks_just_now_is_there_whatever_its_session(before: int) -> None:
    node = fold_state(known(state(session=before, status="disconnected")), state(session=2), now=2001, listened=Listened(2001.0))

    assert node is not None
    assert (node.status, node.session) == ("online", 2)


def test_an_absurd_session_shuts_out_not_even_what_the_broker_kept() -> None:
    assert known(state(session=2**53), state(session=2)).session == 2
    assert fold_state(known(state(session=2**53)), state(session=2), now=2001, listened=Listened(2001.0), old=True) is not None


def test_a_will_of_an_absurd_session_raises_no_session() -> None:
    lost = known(state(session=2), state(session=2**53, status="lost"))

    assert (lost.status, lost.session) == ("lost", 2)
    assert known(state(session=2), state(session=2**53, status="lost"), state(session=3)).status == "online"


def test_a_lower_number_counts_where_its_node_counts_anew() -> None:
    node = fold_receipt(known(state()), receipt(40, "serving", ONE), received_at=1)

    assert fold_receipt(node, receipt(1, "serving", TWO), received_at=2, epoch=1).serving["delay"].digest == TWO
    assert fold_receipt(node, receipt(1, "serving", TWO), received_at=2).serving["delay"].digest == ONE


def test_a_polite_goodbye_is_not_turned_into_a_loss() -> None:
    node = known(state(session=2), state(session=2, status="disconnected"))

    assert fold_state(node, state(session=2, status="lost"), now=2001, listened=Listened(2001.0)) is None


def test_another_device_key_is_refused_and_the_first_stays() -> None:
    node = known(state())

    with pytest.raises(Refused) as refusal:
        fold_state(node, state(session=2, public_key=OTHER_KEY), now=2001, listened=Listened(2001.0))

    assert refusal.value.code == Code.RECEIPT_KEY_CHANGED
    assert node.public_key == KEY


@pytest.mark.parametrize("name", sorted(RESERVED_NODES))
def test_reserved_names_are_refused(name: str) -> None:
    with pytest.raises(Refused) as refusal:
        fold_state(None, state(node=name), now=2000, listened=Listened(2000.0))

    assert refusal.value.code == Code.NAME_INVALID


def test_a_retained_state_counts_from_when_it_was_said() -> None:
    node = fold_state(None, state(at=500), now=2000, listened=Listened(2000.0), old=True)

    assert node is not None
    assert (node.last_seen, node.heard_at) == (500, 500.0)


@pytest.mark.parametrize(
    ("status", "silent_seconds", "age_seconds", "expected"),
    [
        ("disconnected", 60, 59, True),
        ("disconnected", 60, 60, False),
        ("lost", 60, 60, False),
        ("online", 60, fleet.ONLINE_SECONDS - 1, True),
        ("online", 60, fleet.ONLINE_SECONDS, False),
        ("online", 3600, 3599, True),
        ("online", 3600, 3600, False),
    ],
)
def test_who_counts_as_heard_from(status: str, silent_seconds: int, age_seconds: int, expected: bool) -> None:
    node = replace(known(state()), status=status)  # type: ignore[arg-type]

    assert expected == fleet.heard(node, listened=Listened(2000.0 + age_seconds), silent_seconds=silent_seconds)


def reported(node: Node, release: ReleaseRef) -> NodeReport:
    deployment = Deployment(
        name=DEFAULT, release=release, state="running", rollout=bytes(16), started=1, gate=Gate(silent_seconds=60, retries=2)
    )
    return fleet.report(node, deployment, model="delay", listened=Listened(2000.0))


def test_only_a_receipt_says_what_is_served() -> None:
    slots = ({"model": "delay", "state": "active", "serving": ONE, "serving_version": "1.0.0"},)
    claims = known(state(slots=slots, profile=Profile(arch="x", cores=1, memory_bytes=1, labels={"site": "a"})))

    before = reported(claims, ReleaseRef("1.0.0", ONE))
    signed = fold_receipt(claims, receipt(1, "serving"), received_at=2000, heard_at=Listened(2000.0))
    after = reported(signed, ReleaseRef("1.0.0", ONE))

    assert (before.serving, after.serving) == (False, True)
    assert dict(after.labels) == {"site": "a"}


def test_a_rollback_ends_serving_until_the_node_signs_for_another() -> None:
    node = fold_receipt(known(state()), receipt(1, "serving", TWO), received_at=1, heard_at=Listened(1.0))

    back = fold_receipt(node, receipt(2, "rolled_back", TWO, code="probation.errors"), received_at=7, heard_at=Listened(7.0))
    again = fold_receipt(back, receipt(3, "serving", ONE), received_at=8, heard_at=Listened(8.0))

    assert "delay" not in back.serving
    assert back.failures["delay", TWO] == fleet.Failure("rolled_back", "probation.errors", 7)
    assert again.serving["delay"].digest == ONE


def test_each_failure_is_one_of_the_nodes_own_tries_whatever_came_between() -> None:
    node = fold_receipt(known(state()), receipt(1, "refused", TWO), received_at=5, heard_at=Listened(5.0))
    node = fold_receipt(node, receipt(2, "serving", TWO), received_at=6, heard_at=Listened(6.0))
    node = fold_receipt(node, receipt(3, "rolled_back", TWO), received_at=7, heard_at=Listened(7.0))
    node = fold_receipt(node, receipt(3, "rolled_back", TWO), received_at=8, heard_at=Listened(8.0))  # It comes twice.

    assert (reported(node, ReleaseRef("2.0.0", TWO)).tried, node.failures["delay", TWO].received_at) == (2, 7)


def test_a_refusal_leaves_what_is_served() -> None:
    node = fold_receipt(known(state()), receipt(1, "serving", ONE), received_at=1, heard_at=Listened(1.0))

    refused = fold_receipt(node, receipt(2, "refused", TWO, code="model.golden_mismatch"), received_at=2, heard_at=Listened(2.0))

    assert refused.serving["delay"].digest == ONE
    assert reported(refused, ReleaseRef("2.0.0", TWO)).failed_at == 2


@given(st.lists(st.tuples(st.sampled_from(["serving", "refused", "rolled_back"]), st.sampled_from([ONE, TWO])), max_size=8), st.data())
def test_receipts_twice_or_late_change_nothing(outcomes: list[tuple[str, bytes]], data: st.DataObject) -> None:
    ordered = [receipt(number + 1, outcome, digest) for number, (outcome, digest) in enumerate(outcomes)]
    node = known(state())
    for one in ordered:
        node = fold_receipt(node, one, received_at=2000, heard_at=Listened(2000.0))

    for one in data.draw(st.lists(st.sampled_from(ordered), max_size=5)) if ordered else []:
        assert fold_receipt(node, one, received_at=2000, heard_at=Listened(2000.0)) == node


def test_releases_that_nodes_serve_or_keep_are_found_the_commonest_first() -> None:
    slots = (Slot(model="delay", state="active", serving=TWO, last_good=ONE), Slot(model="other", state="active", serving=bytes(32)))
    nodes = [
        Node(state(slots=slots), "online", 1, 0, b"k"),
        Node(state(), "online", 1, 0, b"k", serving={"delay": fleet.Serving("1.0.0", ONE, 1)}),
    ]

    assert fleet.held(nodes)["delay"] == [ONE, TWO]
    assert fleet.held([]) == {}


def test_a_node_is_quiet_when_it_says_nothing_for_longer_than_its_reports_are_apart() -> None:
    node = known(state())

    assert not fleet.quiet(node, listened=Listened(2000.0 + 480))
    assert fleet.quiet(node, listened=Listened(2000.0 + 481))
    assert fleet.heard(node, listened=Listened(2000.0 + 481), silent_seconds=3600)


@pytest.mark.parametrize(("seconds", "limit"), [(10, 45), (3600, 5430)])
def test_a_node_that_says_how_often_it_reports_is_believed(seconds: int, limit: int) -> None:
    node = known(state(report_seconds=seconds))

    assert not fleet.quiet(node, listened=Listened(2000.0 + limit))
    assert fleet.quiet(node, listened=Listened(2000.0 + limit + 1))


def test_a_node_that_reports_less_often_is_given_its_own_time() -> None:
    node = known(state())
    for turn in range(1, 4):
        node = fold_state(node, state(at=1000 + turn), now=2000 + 1000 * turn, listened=Listened(2000.0 + 1000 * turn)) or node
    assert node.report_seconds == 1000
    assert not fleet.quiet(node, listened=Listened(5000.0 + 1500))

    back = fold_state(node, state(session=2, at=2000), now=90_000, listened=Listened(90_000.0))
    assert back is not None
    assert back.report_seconds == 1000  # A time without a connection is no pause between reports.
    often = back
    for turn in range(1, 3):
        often = fold_state(often, state(session=2, at=2000 + turn), now=90_000 + turn, listened=Listened(90_000.0 + turn)) or often
    assert often.report_seconds == 300


def measured(latency_ms: float, **changes: object) -> dict[str, object]:
    return {"evidence": Evidence.model_validate({"latency_ms": latency_ms, **changes})}


def test_latency_is_compared_with_the_release_that_the_node_measured_before() -> None:
    node = fold_receipt(known(state()), receipt(1, "serving", **measured(2.0)), received_at=1)
    assert fleet.latency_ratio(node, "delay", ONE) is None
    node = fold_receipt(node, receipt(2, "serving", TWO, **measured(3.0, shadow="passed")), received_at=2)
    report = reported(node, ReleaseRef("2.0.0", TWO))
    assert (report.latency_ratio, report.shadow) == (1.5, "passed")

    node = fold_receipt(node, receipt(3, "rolled_back", TWO), received_at=3)
    node = fold_receipt(node, receipt(4, "serving", TWO, **measured(1.0)), received_at=4)
    assert fleet.latency_ratio(node, "delay", TWO) == 0.5


def test_only_a_few_releases_latencies_are_kept() -> None:
    node = known(state())
    for number in range(1, 9):
        node = fold_receipt(node, receipt(number, "serving", sha256(bytes([number])), **measured(float(number))), received_at=number)
    assert [latency for _, latency in node.measured["delay"]] == [8.0, 7.0, 6.0, 5.0]


@pytest.mark.parametrize(
    ("slot", "lacks"),
    [
        (Slot(model="delay", state="active", serving=ONE), False),
        (Slot(model="delay", state="probation", serving=TWO, target=TWO), True),
        (Slot(model="delay", state="refused", serving=ONE, target=TWO), True),
        (Slot(model="delay", state="testing", serving=ONE, target=TWO), False),
        (Slot(model="price", state="active", serving=ONE), True),
        (Slot(model="price", state="idle"), False),
    ],
)
def test_a_node_that_says_more_than_its_receipts_lacks_receipts(slot: Slot, lacks: bool) -> None:
    node = fold_receipt(known(state(slots=(slot,))), receipt(1, "serving", ONE), received_at=2000)

    assert fleet.lacks_receipts(node) == lacks


def test_a_failure_that_a_receipt_proves_is_not_lacked() -> None:
    node = fold_receipt(known(state(slots=(Slot(model="delay", state="refused", target=TWO),))), receipt(1, "refused", TWO), received_at=1)

    assert not fleet.lacks_receipts(node)


def judged(*codes: str) -> tuple[Tally, gates.Verdict]:
    """What a gate says of nodes of which each has refused the release for one of these reasons."""
    release = ReleaseRef("1.0.0", ONE)
    deployment = Deployment(name=DEFAULT, release=release, state="running", rollout=bytes(16), started=1, gate=Gate())
    nodes = [
        fold_receipt(known(state()), receipt(1, "refused", ONE, code=code), received_at=5, heard_at=Listened(2000.0)) for code in codes
    ]
    reports = [fleet.report(node, deployment, model="delay", listened=Listened(2000.0)) for node in nodes]
    counted = tally(deployment, reports, judged_from=0, now=6)
    return counted, next(one for one in gates.verdicts(Gate(), counted, gates.Facts(reports)) if one.name == "failures")


@pytest.mark.parametrize("code", ["disk.damaged", "disk.full", "store.damaged", "trust.expired"])
def test_no_gate_counts_what_is_wrong_with_a_devices_own_disk(code: str) -> None:
    counted, verdict = judged(code)

    assert (counted.heard, counted.failed, verdict.outcome) == (1, 0, "holds")


def test_a_gate_says_for_which_failures_devices_may_be_to_blame() -> None:
    counted, verdict = judged("runtime.absent", "worker.crashed", "model.golden_mismatch")

    assert (counted.failed, verdict.outcome) == (3, "fails")
    assert "(2 for runtime.absent, worker.crashed, for which their devices may be to blame)" in verdict.sentence
