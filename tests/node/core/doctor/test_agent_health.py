"""A node's health is one word, and it follows from what the agent last said and from whether it is there."""

from typing import Any

import pytest

from node.core.doctor.agent_health import SILENT_SECONDS_MAX, AgentStatus, Verdict, WorkerProcess, is_stale, judge
from node.core.trust.clock import BUILD_TIME
from schemas.state import Slot

NOW = BUILD_TIME + 1_000_000
DIGEST, OTHER = bytes(32), bytes([1]) * 32
SERVING = Slot(model="m", state="active", serving=DIGEST, serving_version="1.0.0")


def status(**changes: Any) -> AgentStatus:
    well = {
        "node": "gw-1",
        "fleet": "f",
        "pid": 7,
        "software": "fleetcast 1",
        "started_at": NOW - 1000,
        "written_at": NOW - 5,
        "answered_at": NOW - 6,
        "listen": "127.0.0.1:8080",
        "online": True,
        "since": NOW - 900,
        "slots": (SERVING,),
        "workers": (WorkerProcess(digest=DIGEST, pid=8),),
    }
    return AgentStatus.model_validate({**well, **changes})


@pytest.mark.parametrize(
    ("said", "running", "verdict"),
    [
        (status(), True, Verdict.SERVING),
        (status(online=False, reason="no route"), True, Verdict.SERVING),  # it serves what it has
        (status(), False, Verdict.NOT_RUNNING),
        (None, False, Verdict.NOT_RUNNING),
        (None, True, Verdict.IDLE),
        (status(ended_at=NOW - 10), True, Verdict.IDLE),  # another one begins, and has said nothing yet
        (status(slots=(), workers=()), True, Verdict.IDLE),
        (status(slots=(Slot(model="m", state="fetching", target=DIGEST),), workers=()), True, Verdict.IDLE),
        (status(workers=()), True, Verdict.NOT_SERVING),
        (status(workers=(WorkerProcess(digest=DIGEST),)), True, Verdict.NOT_SERVING),
        (status(workers=(WorkerProcess(digest=OTHER, pid=8),)), True, Verdict.NOT_SERVING),
        (status(answered_at=NOW - 6 - SILENT_SECONDS_MAX), True, Verdict.NOT_SERVING),
        (status(written_at=NOW - 1 - SILENT_SECONDS_MAX), True, Verdict.NOT_TURNING),
        (status(written_at=NOW + 1 + SILENT_SECONDS_MAX), True, Verdict.NOT_TURNING),
    ],
)
def test_a_node_is_what_it_says_as_long_as_it_is_there_to_say_it(said: AgentStatus | None, running: bool, verdict: Verdict) -> None:
    assert judge(said, running=running, now=NOW) is verdict


def test_a_status_is_the_same_after_it_was_written_and_read() -> None:
    said = status(expires=NOW, timestamp_expires=NOW, error="x", error_at=NOW, watchdog_seconds=180.0)

    assert AgentStatus.model_validate_json(said.model_dump_json(exclude_none=True)) == said


@pytest.mark.parametrize(
    ("expires", "wall", "floor", "stale"),
    [
        (NOW + 1, NOW, 0, False),
        (NOW, NOW, 0, True),
        (None, NOW, 0, False),
        (NOW + 1, BUILD_TIME - 1, 0, True),  # the clock was never set
        (NOW + 10_000, NOW, NOW + 3700, True),  # the clock is behind a signature
    ],
)
def test_metadata_is_stale_when_it_has_expired_or_nobody_can_say(expires: int | None, wall: int, floor: int, stale: bool) -> None:
    assert is_stale(expires, wall=wall, floor=floor) is stale
