"""What an attack is, and the list of them: functions that try one thing, named after it, each with the codes that may refuse it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

Group = Literal["trust", "transport", "artifact", "port", "fleet", "access"]
Launch = TypeVar("Launch", bound=Callable[[Any], Any])

MEMORY_MIB_MAX = 96.0  # by which one attack may raise what its victim has resident, once it is over
CPU_SECONDS_MAX = 10.0  # of the victim for one attack, from before it to after its refusal, without its workers
ATTACKS: list["Attack"] = []


@dataclass(frozen=True)
class Attack:
    """One attack: `launch` makes it, and returns nothing, or the code of an answer that it got."""

    name: str
    what: str
    group: Group
    codes: tuple[str, ...]
    launch: Callable[[Any], Any]

    def __str__(self) -> str:
        return self.name


def attack(group: Group, *codes: str) -> Callable[[Launch], Launch]:
    """Add a function to the list; its docstring says what it tries. A code is one of ours, a status of HTTP, or `closed`."""

    def add(launch: Launch) -> Launch:
        name = launch.__name__
        assert launch.__doc__, f"{name} does not say what it tries"
        assert all(one.name != name for one in ATTACKS), f"there are two attacks {name}"
        ATTACKS.append(Attack(name, launch.__doc__.split("\n")[0], group, tuple(map(str, codes)), launch))
        return launch

    return add


def of(*groups: Group) -> list[Attack]:
    """Return the attacks of these groups, in the order in which they are written."""
    return [one for one in ATTACKS if one.group in groups]
