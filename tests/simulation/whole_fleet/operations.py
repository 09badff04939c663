"""What may happen to a fleet: operations, drawn by a seed, as plain values that can be printed, left out, and kept.

To add one: draw it here, and give `fleet.Fleet` a method of its name.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random

from tests.simulation.whole_fleet.template import KINDS, MODELS

LABELS = ({}, {"ring": "canary"}, {"site": "rome"}, {"site": "rome", "ring": "canary"})
SIZES = (2, 2, 2, 3, 3, 4, 5)  # of a fleet: most of what goes wrong takes two nodes
STAGES = ("100", "100", "100", "25,100", "50,100", "1,10,100")
TELEMETRY_SHARE, APPROVAL_SHARE = 0.25, 0.4
MINUTE, HOUR, DAY = 60.0, 3600.0, 86_400.0

Value = str | int | float | bool


@dataclass(frozen=True, slots=True)
class Operation:
    """What is done, with which values, and for how long the fleet then goes on."""

    kind: str
    values: tuple[tuple[str, Value], ...]
    then_seconds: float

    def __str__(self) -> str:
        return f"{self.kind}({', '.join(f'{name}={value!r}' for name, value in self.values)}) +{self.then_seconds:g}s"

    def as_json(self) -> list[object]:
        return [self.kind, dict(self.values), self.then_seconds]


def operation(kind: str, then_seconds: float, **values: Value) -> Operation:
    return Operation(kind, tuple(values.items()), then_seconds)


@dataclass(frozen=True, slots=True)
class Plan:
    """A fleet, and what happens to it. `models` and `nodes` are how many of them there are; with `telemetry` they are asked, and count."""

    nodes: int
    models: int
    operations: tuple[Operation, ...]
    telemetry: bool = False

    def without(self, start: int, count: int) -> "Plan":
        return replace(self, operations=self.operations[:start] + self.operations[start + count :])

    def as_json(self) -> dict[str, object]:
        found: dict[str, object] = {"nodes": self.nodes, "models": self.models}
        return {**found, **({"telemetry": True} if self.telemetry else {}), "operations": [one.as_json() for one in self.operations]}

    @classmethod
    def from_json(cls, found: dict[str, object]) -> "Plan":
        listed = found["operations"]
        assert isinstance(listed, list)
        operations = tuple(Operation(kind, tuple(values.items()), seconds) for kind, values, seconds in listed)
        return cls(int(str(found["nodes"])), int(str(found["models"])), operations, telemetry=bool(found.get("telemetry")))


def plan_of(seed: int) -> Plan:
    """Return what a seed stands for."""
    rng = Random(f"operations {seed}")
    nodes, models = rng.choice(SIZES), 1 if rng.random() < 0.8 else 2
    kinds = list(DRAWN)
    weights = [DRAWN[kind][0] for kind in kinds]
    operations = [_start(rng, models, version="1.0.0", stages="100", labels=False)]
    for _ in range(rng.randint(2, 6)):
        kind = rng.choices(kinds, weights)[0]
        operations.append(DRAWN[kind][1](rng, nodes, models))
    return Plan(nodes, models, tuple(operations), telemetry=rng.random() < TELEMETRY_SHARE)


def _pause(rng: Random) -> float:
    """A moment, a while, or long enough for all to settle."""
    return round(rng.choice((rng.uniform(0, 2), rng.uniform(2, 30), rng.uniform(30, 150))), 2)


def _model(rng: Random, models: int) -> str:
    return MODELS[rng.randrange(models)]


def _start(rng: Random, models: int, *, version: str | None = None, stages: str | None = None, labels: bool = True) -> Operation:
    label = rng.choice(("", "", "ring=canary", "site=rome")) if labels else ""
    stages = stages or rng.choice(STAGES)
    last = stages.rpartition(",")[2] if "," in stages and rng.random() < APPROVAL_SHARE else ""
    return operation(
        "start",
        round(rng.uniform(40, 120), 2) if version is not None else _pause(rng),
        model=_model(rng, models),
        version=version or rng.choice([one for one in KINDS if one != "1.0.0"] + ["1.0.0"]),
        stages=stages,
        label=label,
        force=rng.random() < 0.5,
        approve=last,
    )


def _of_model(kind: str) -> Callable[[Random, int, int], Operation]:
    return lambda rng, nodes, models: operation(kind, _pause(rng), model=_model(rng, models))


def _of_node(kind: str) -> Callable[[Random, int, int], Operation]:
    return lambda rng, nodes, models: operation(kind, _pause(rng), node=rng.randrange(nodes))


DRAWN: dict[str, tuple[float, Callable[[Random, int, int], Operation]]] = {
    "publish": (
        3,
        lambda rng, nodes, models: operation("publish", _pause(rng), model=_model(rng, models), version=rng.choice(list(KINDS))),
    ),
    "start": (10, lambda rng, nodes, models: _start(rng, models)),
    "pin": (
        1.5,
        lambda rng, nodes, models: operation(
            "pin", _pause(rng), model=_model(rng, models), version=rng.choice(list(KINDS)), node=rng.randrange(nodes)
        ),
    ),
    "unpin": (1, lambda rng, nodes, models: operation("unpin", _pause(rng), model=_model(rng, models), node=rng.randrange(nodes))),
    "approve": (2, _of_model("approve")),
    "halt": (2, _of_model("halt")),
    "resume": (2, _of_model("resume")),
    "back": (4, _of_model("back")),
    "relabel": (
        3,
        lambda rng, nodes, models: operation("relabel", _pause(rng), node=rng.randrange(nodes), labels=rng.randrange(len(LABELS))),
    ),
    "restart": (3, _of_node("restart")),
    "kill": (
        5,
        lambda rng, nodes, models: operation(
            "kill", _pause(rng), node=rng.randrange(nodes), calls=int(2 ** rng.uniform(0, 12)), off_seconds=round(rng.uniform(0.5, 60), 2)
        ),
    ),
    "kill_hub": (
        3,
        lambda rng, nodes, models: operation(
            "kill_hub", _pause(rng), calls=int(2 ** rng.uniform(0, 14)), off_seconds=round(rng.uniform(0.5, 60), 2)
        ),
    ),
    "hub_away": (2, lambda rng, nodes, models: operation("hub_away", _pause(rng), seconds=round(rng.uniform(10, 3 * HOUR), 1))),
    "lose_data": (
        2,
        lambda rng, nodes, models: operation("lose_data", _pause(rng), node=rng.randrange(nodes), key=rng.random() < 0.7),
    ),
    "lose_database": (2, _of_node("lose_database")),
    "forget_broker": (2, lambda rng, nodes, models: operation("forget_broker", _pause(rng), off_seconds=round(rng.uniform(0, 60), 1))),
    "restart_broker": (1, lambda rng, nodes, models: operation("restart_broker", _pause(rng), off_seconds=round(rng.uniform(0, 60), 1))),
    "lose_hub_session": (
        2,
        lambda rng, nodes, models: operation("lose_hub_session", _pause(rng), seconds=round(rng.choice((1.0, rng.uniform(10, 600))), 1)),
    ),
    "cut_link": (
        3,
        lambda rng, nodes, models: operation(
            "cut_link",
            _pause(rng),
            node=rng.randrange(nodes),
            seconds=round(rng.choice((0.0, rng.uniform(1, 90), rng.uniform(600, 4000))), 1),
        ),
    ),
    "back_up_hub": (2, lambda rng, nodes, models: operation("back_up_hub", _pause(rng))),
    "restore_hub": (1.5, lambda rng, nodes, models: operation("restore_hub", _pause(rng))),
    "clone": (
        1.5,
        lambda rng, nodes, models: operation("clone", _pause(rng), node=rng.randrange(nodes), seconds=round(rng.uniform(30, 600), 1)),
    ),
    "replace": (1, _of_node("replace")),
    "power_off": (
        1.5,
        lambda rng, nodes, models: operation(
            "power_off", _pause(rng), node=rng.randrange(nodes), seconds=rng.choice((HOUR, HOUR, 6 * HOUR, 6 * HOUR, DAY, 7 * DAY))
        ),
    ),
    "jump_clock": (
        2,
        lambda rng, nodes, models: operation(
            "jump_clock",
            _pause(rng),
            node=rng.randrange(nodes),
            seconds=rng.choice((-1, 1)) * round(rng.choice((rng.uniform(60, 3000), rng.uniform(HOUR, DAY), 400 * DAY)), 0),
            back_seconds=round(rng.uniform(5, 600), 1),
        ),
    ),
    # A hub that signs with a clock that is ahead by more than an hour keeps nodes from activating until then (docs/security.md, Clock).
    "jump_hub_clock": (
        1,
        lambda rng, nodes, models: operation(
            "jump_hub_clock",
            _pause(rng),
            seconds=round(rng.choice((rng.uniform(60, 3000), -rng.uniform(60, 3000), -rng.uniform(HOUR, DAY))), 0),
            back_seconds=round(rng.uniform(5, 600), 1),
        ),
    ),
    "fill_disk": (
        2,
        lambda rng, nodes, models: operation("fill_disk", _pause(rng), node=rng.randrange(nodes), seconds=round(rng.uniform(5, 300), 1)),
    ),
}
