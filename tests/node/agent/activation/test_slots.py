"""kill -9 between any two writes of a slot's life leads to a state from which it goes on to the same end."""

import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from node.core.activation import lifecycle
from node.storage.store import NodeStore
from schemas import codec
from schemas.receipt import Receipt
from tests.node.agent import lives
from tests.node.agent.sites import SECONDS_MAX
from tests.warm import FORKS  # a clean process that has imported everything forks each life: no threads of ours, and no second of imports

AT_ONCE = 2
SHARES = 4  # so that several processes of tests can share the work
KILLED_EACH = 8  # one write of so many is met by a real SIGKILL, the others by a copy of what it would have left


def live(folder: Path, *, kill_at: int | None = None, keep: Path | None = None) -> tuple[int | None, int]:
    """How the process ended, and how often it wrote."""
    writes = FORKS.Value("i", 0)
    process = FORKS.Process(target=lives.live, args=(folder, kill_at, keep, writes))
    process.start()
    process.join(4 * SECONDS_MAX)
    return process.exitcode, writes.value


def check_end(folder: Path) -> None:
    store = NodeStore(folder / "node.sqlite")
    slot, moves = store.slots()["m"], store.moves("m")
    receipts = [codec.decode(Receipt, one.payload) for one in store.waiting(1000)]
    store.close()

    served, crashed = lives.release(lives.COMPARED).digest, lives.release(lives.CRASHING).digest
    assert (slot.state, slot.code) == ("rolled_back", "worker.crashed")
    assert (slot.serving.digest if slot.serving else None, slot.target.digest if slot.target else None) == (served, crashed)
    assert lifecycle.replay(moves) == slot.state
    assert [move.number for move in moves] == list(range(1, slot.moves + 1))
    assert [one.sequence for one in receipts] == sorted({one.sequence for one in receipts})
    for version, outcome in lives.ENDS.items():
        said = [one.outcome for one in receipts if one.version == version]
        assert outcome in said
        # What failed says so once: it was written together with the state that it reports.
        assert said.count("refused") + said.count("rolled_back") == (outcome != "serving")


@pytest.mark.timeout(600)
@pytest.mark.parametrize("share", [pytest.param(one, marks=pytest.mark.slow if one % 2 else ()) for one in range(SHARES)])
def test_killed_at_any_write_the_slots_go_on_to_the_same_end(share: int, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    exit_code, writes = live(tmp_path / "whole", keep=kept)
    assert exit_code == 0
    check_end(tmp_path / "whole")

    def killed_at(number: int) -> None:
        folder = kept / str(number)
        if (number // SHARES + 2 * share) % KILLED_EACH == 0:
            folder = tmp_path / f"killed-{number}"
            assert live(folder, kill_at=number)[0] == -signal.SIGKILL, f"write {number}"
        assert live(folder)[0] == 0, f"killed at write {number}, it did not go on"
        check_end(folder)

    assert writes > 40
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for done in [pool.submit(killed_at, number) for number in range(1, writes + 1) if number % SHARES == share]:
            done.result()
