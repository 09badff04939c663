"""A hub with many models looks at them in shares of a turn, so that operators are answered in between."""

from datetime import timedelta
from pathlib import Path

from hub.core.rollouts import commands
from hub.database.hearing import Hearing
from hub.database.store import Store
from hub.service.alerts.event_log import Notes
from hub.service.rollouts.controller import TURN_SECONDS, Controller
from hub.service.rollouts.listening import ListeningClock
from schemas import codec
from schemas.deployments import Deployments, Envelope
from tests.databases import url_of
from tests.trust_fleet import Fleet

MODELS = [f"m{number:02}" for number in range(12)]
SIGNING_SECONDS = 0.06


def test_statements_that_age_together_are_signed_in_several_turns(tmp_path: Path) -> None:
    fleet, clock = Fleet.make(tmp_path / "trust", models=MODELS), [0.0]
    for name in MODELS:
        fleet.release("1.0.0", model=name)
        fleet.deploy("1.0.0", model=name)
    store = Store(url_of(tmp_path / "hub.sqlite"), clock=fleet.now.timestamp)
    store.create()

    def wall() -> float:
        return fleet.now.timestamp()

    def monotonic() -> float:
        clock[0] += SIGNING_SECONDS  # Each look at the clock is as late as if a statement had been signed since.
        return clock[0]

    controller = Controller(
        repository=fleet.repository,
        store=store,
        notes=Notes(store, publish=lambda alert: None, clock=wall),
        nodes={},
        signer=fleet.keys["rollouts"],
        random_bytes=bytes,
        wall=wall,
        monotonic=monotonic,
        listening=ListeningClock(Hearing(store.database), monotonic=lambda: 0.0),
        cohort_nodes_min=3,
    )

    def renewed() -> int:
        sealed = (fleet.repository.deployments(name) or b"" for name in MODELS)
        until = int((fleet.now + timedelta(days=6)).timestamp())
        return sum(codec.decode(Deployments, codec.decode(Envelope, one).payload).expires > until for one in sealed)

    fleet.now += timedelta(days=5)
    found, answered = [], []
    for _ in range(8):
        number = store.add_command("m05", commands.read("halt", "{}"))
        controller.tick()
        found.append(renewed())
        answered.append(store.command(number).state != "open")  # type: ignore[union-attr]

    assert max(after - before for before, after in zip([0, *found], found, strict=False)) <= TURN_SECONDS / SIGNING_SECONDS + 1
    assert found[-1] == len(MODELS)
    assert all(answered)
