"""Plan a rollout, start it and follow it: to its end, to its halt, and until a person presses Ctrl-C."""

import signal
import threading
from collections.abc import Iterator, Sequence

import pytest

import fleetcast
from fleetcast.fleets.followed import FollowedRollout
from fleetcast.fleets.results import Row
from hub.library.local import LocalBackend
from schemas.errors import Unreachable
from tests.hub.hubs import until
from tests.hub.library.scenes import MODEL, Running, opened


@pytest.fixture
def fleet(hub: Running) -> Iterator[fleetcast.Fleet]:
    """The fleet of the hub that runs, opened beside it."""
    with fleetcast.open(hub.made.fleet, actor="ada") as fleet:
        yield fleet


def test_a_rollout_is_planned_followed_to_its_end_and_taken_back(hub: Running, fleet: fleetcast.Fleet) -> None:
    release = fleet.release("delay@1.0.0")
    plan = fleet.plan(release)
    assert plan.total_bytes > 0
    assert [(one.node, one.fetch_bytes) for one in plan.nodes] == [("n0", plan.total_bytes)]

    seen: list[fleetcast.RolloutStatus] = []
    with fleet.roll_out(release, stages=[100], soak="0s", timeout="2min") as rollout:
        assert rollout.done is not None
        assert rollout.done.state == "done"
        for status in rollout:
            seen.append(status)
            if len(seen) == 1:
                hub.serve("1.0.0")

    assert seen[0].state == "running"
    assert (seen[-1].state, seen[-1].serving, seen[-1].percent) == ("done", 1, 100)
    assert str(seen[-1]).startswith("delay@1.0.0 done at 100 %, 1 of 1 node serves it: ")
    assert fleet.release("delay@1.0.0").nodes_serving == 1
    assert sum(seen[-1].classes.values()) == seen[-1].nodes == 1


def test_a_rollout_that_halts_ends_the_loop_with_the_reason(hub: Running, fleet: fleetcast.Fleet) -> None:
    rollout = fleet.roll_out("delay@1.1.0", timeout=120)

    with pytest.raises(fleetcast.RolloutEnded, match=r"the rollout of delay@1\.1\.0 is halted: ") as caught:  # noqa: PT012
        for status in rollout:
            assert status.state == "running"
            hub.fail("1.1.0")

    assert caught.value.code == "rollout.halted"
    assert caught.value.status is not None
    assert caught.value.status.reason in caught.value.reason
    assert "fleet.resume" in caught.value.mend
    assert fleet.back(MODEL).state == "done"
    with pytest.raises(fleetcast.RolloutEnded) as back:
        fleet.rollout(MODEL, timeout=60).wait()
    assert back.value.code == "rollout.rolled_back"
    assert any(event.actor == "ada" for event in fleet.history())


def test_ctrl_c_leaves_the_rollout_running_and_says_so(hub: Running, fleet: fleetcast.Fleet, capsys: pytest.CaptureFixture[str]) -> None:
    began = fleet.roll_out("delay@1.1.0", timeout=120, supersede=True)

    with pytest.raises(KeyboardInterrupt) as caught, began as rollout:  # noqa: PT012
        for _ in rollout:
            threading.Timer(0.05, signal.raise_signal, [signal.SIGINT]).start()

    (note,) = caught.value.__notes__
    assert note.startswith("the rollout of delay@1.1.0 goes on")
    assert f"fleetcast: {note}" in capsys.readouterr().err
    status = began.status
    assert status is not None
    assert status.state == "running"


def test_a_rollout_that_another_one_replaces_says_which(hub: Running, fleet: fleetcast.Fleet) -> None:
    rollout = fleet.roll_out("delay@1.1.0", supersede=True, timeout=60)
    follower = iter(rollout)
    next(follower)

    fleet.roll_out("delay@1.0.0", supersede=True)

    with pytest.raises(fleetcast.RolloutEnded, match=r"superseded by 1\.0\.0") as caught:
        list(follower)
    assert caught.value.code == "rollout.superseded"


class Breaking(LocalBackend):
    """A backend whose database does not answer now and then."""

    asked = 0

    def rollouts(self, model: str | None) -> Sequence[Row]:
        self.asked += 1
        if self.asked % 2:
            raise Unreachable("the database does not answer")
        return super().rollouts(model)


def test_an_answer_that_fails_for_a_while_does_not_end_following(hub: Running, fleet: fleetcast.Fleet) -> None:
    asked = fleet.roll_out("delay@1.1.0", supersede=True)
    breaking = Breaking(opened(hub.made))
    follower = iter(FollowedRollout(fleetcast.Fleet(breaking), MODEL, asked.deployment, "1.1.0", timeout_seconds=100))

    assert next(follower).state == "running"
    fleet.halt(MODEL)
    with pytest.raises(fleetcast.RolloutEnded, match="is halted"):
        list(follower)
    assert breaking.asked >= 4
    breaking.close()


def test_following_ends_in_time_and_says_that_it_goes_on(hub: Running, fleet: fleetcast.Fleet) -> None:
    rollout = fleet.roll_out("delay@1.1.0", supersede=True, timeout=0)

    with pytest.raises(fleetcast.NotInTime, match=r"it goes on; fleet\.rollout"):
        rollout.wait()


def test_events_come_as_they_happen(hub: Running, fleet: fleetcast.Fleet) -> None:
    last = max(event.id for event in fleet.history())
    fleet.halt(MODEL)

    event = next(one for one in fleet.events(after=last) if one.kind == "rollout")

    assert event.id > last
    assert event.actor == "ada"
    assert event.text in str(event)


def test_what_the_hub_refuses_is_refused_with_its_code(hub: Running, fleet: fleetcast.Fleet) -> None:
    until("the halt", lambda: fleet.rollouts(MODEL)[0].state == "halted")

    with pytest.raises(fleetcast.Refused) as caught:
        fleet.halt(MODEL)

    assert caught.value.code is fleetcast.Code.ROLLOUT_INVALID
    assert f"mend: {caught.value.mend}" in caught.value.__notes__
