"""The simulated fleet with a flipped byte in any one file of a machine, and with clocks that are set wrong at any moment.

python -m tests.faults.damage CASES      # as tests/faults/crashes.py: cases as JSON, one a line
"""

from dataclasses import replace
from pathlib import Path
from random import Random

from tests.faults import crashes
from tests.faults.apart import main
from tests.faults.crashes import SCENARIOS, SERVES_SECONDS, Case, FaultFleet
from tests.simulation.whole_fleet.machines import NodeMachine
from tests.simulation.whole_fleet.operations import Plan, operation

LIFE = SCENARIOS["life"].operations
JUMPS = (-86_400, -1800, 3000, 86_400, 400 * 86_400)  # seconds, of a device
HUB_JUMPS = (-86_400, -1800, -60, 60, 3000)  # A hub further ahead signs what no device believes until then: docs/security.md, Clock.
KEYS = ("lock", "agent.pid", "hub.ready", "journal", "-shm")  # what a process makes anew, or does not read
REPORT_SECONDS = 60.0
BLOCKS_MAX = 3  # of a hub: they are all alike


def plan_of(case: Case) -> Plan:
    """Return the life of a device, with the damage in its midst."""
    if case.scenario == "flip":
        wanted = operation("flip", 30, number=case.at)
        return replace(SCENARIOS["life"], operations=(*LIFE[:4], wanted, *LIFE[6:8], *LIFE[9:11]))
    place, jump = divmod(case.at, len(JUMPS))
    seconds = float((HUB_JUMPS if case.victim == "hub" else JUMPS)[jump])
    kind, values = ("jump_hub_clock", {}) if case.victim == "hub" else ("jump_clock", {"node": 0})
    wanted = operation(kind, 1, **values, seconds=seconds, back_seconds=Random(f"{case}").uniform(5, 500))
    return replace(SCENARIOS["life"], operations=(*LIFE[:place], wanted, *LIFE[place:]))


class DamagedFleet(FaultFleet):
    """A fleet of which one file has another byte, and somebody who puts a file back that the product asks for."""

    def __init__(self, case: Case, folder: Path) -> None:
        SCENARIOS[case.scenario] = plan_of(case)
        super().__init__(replace(case, how="none"), folder)
        self.found.case = case

    def _flip(self, number: int) -> str:
        served = self._served()
        self.victim.kill()
        files = files_of(self._place)
        if number >= len(files):
            self.victim.start()
            return "there is no such file"
        path = files[number]
        content = bytearray(path.read_bytes())
        before = bytes(content)
        content[self.chances.randrange(len(content))] ^= 1 << self.chances.randrange(8)
        path.write_bytes(content)
        self.found.struck += 1
        name = str(path.relative_to(self._place))
        self.found.kinds.append(name)
        died = len(self.victim.died)
        self.victim.start()
        if isinstance(self.victim, NodeMachine):
            self.run(SERVES_SECONDS)
            if self.victim.on:
                self._look(served, f"a byte of {name} was flipped")
        self.run(REPORT_SECONDS)
        ended = self.victim.died[died:]
        if not self.victim.on and not any(path.name in one or path.stem in one for one in ended):
            self.found.broken.append(f"a byte of {name} was flipped, and it ended with {ended[-1:]}, which does not name it")
        is_damaged = path.exists() and path.read_bytes() == bytes(content)
        is_metadata = not isinstance(self.victim, NodeMachine) and path.suffix != ".sqlite"  # a hub may not have read it yet
        if is_damaged and (not self.victim.on or is_metadata):  # Its operator puts it back from a copy; not a database that goes on.
            self.victim.kill()
            path.write_bytes(before)
            self.victim.start()
        return name


def files_of(folder: Path) -> list[Path]:
    """Return the files of a machine that matter to it."""
    found = (path for path in sorted(folder.rglob("*")) if path.is_file() and not path.is_symlink() and path.stat().st_size)
    wanted = [path for path in found if not path.name.endswith(KEYS)]
    blocks = [path for path in wanted if path.is_relative_to(folder / "blocks")]
    return [path for path in wanted if path not in blocks[BLOCKS_MAX:]]


def ready() -> None:
    """Make what every case begins with, on machines whose files are damaged."""
    crashes.ready()
    crashes.FaultFleet = DamagedFleet  # type: ignore[misc]


if __name__ == "__main__":
    raise SystemExit(main(__doc__, ready, crashes.outcome))
