"""Measure, print, write `bench/results.json`: `python -m bench [GROUP ...]`."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace

import structlog
from rich.console import Console
from rich.table import Table

from bench import (
    announcing,
    cli,
    coalescing,
    console,
    delivery,
    drift,
    encodings,
    floods,
    fresh,
    hub_history,
    hub_messages,
    idle,
    influence,
    ingest,
    links,
    memory,
    neighbours,
    node,
    privacy,
    quickstart,
    relay,
    restart,
    shares,
    simulate,
    sound,
    tables,
    telemetry,
)
from bench.figures import Figure, write

GROUPS: dict[str, Callable[[], Sequence[Figure]]] = {
    "telemetry": telemetry.measure,
    "ingest": ingest.measure,
    "idle": idle.measure,
    "hub-history": hub_history.measure,
    "hub-messages": hub_messages.measure,
    "hub-announce": announcing.measure,
    "node": node.measure,
    "neighbours": neighbours.measure,
    "delivery": delivery.measure,
    "memory": memory.measure,
    "relay": relay.measure,
    "sound": sound.measure,
    "restart": restart.measure,
    "coalescing": coalescing.measure,
    "encodings": encodings.measure,
    "links": links.measure,
    "drift": drift.measure,
    "fresh": fresh.measure,
    "cli": cli.measure,
    "shares": shares.measure,
    "privacy": privacy.measure,
    "influence": influence.measure,
    "floods": floods.measure,
    "simulate": simulate.measure,
    "quickstart": quickstart.measure,
    "console": console.measure,
}
QUICK = (
    "telemetry",
    "ingest",
    "idle",
    "delivery",
    "memory",
    "relay",
    "sound",
    "restart",
    "cli",
    "shares",
    "privacy",
    "influence",
)  # `make bench`
NODE = ("telemetry", "neighbours", "node")  # `make bench-node`
HUB = ("hub-messages", "hub-announce", "hub-history")  # `make bench-hub`
DELIVERY = ("delivery", "memory", "relay", "coalescing", "encodings", "links")  # `make bench-delivery`

COMMANDS = (
    ("make bench", QUICK),
    ("make bench-node", NODE),
    ("make bench-drift", ("drift",)),
    ("make bench-hub", HUB),
    ("make bench-floods", ("floods",)),
    ("make test-fresh", ("fresh",)),
    ("make bench-simulate", ("simulate",)),
    ("make bench-quickstart", ("quickstart",)),
    ("make bench-console", ("console",)),
)
TOGETHER = {"all-of-delivery": DELIVERY, "all-of-node": NODE, "all-of-hub": HUB}


def main(names: Sequence[str]) -> int:
    """The quick groups, or those named."""
    names = [one for name in names for one in TOGETHER.get(name, (name,))]
    unknown = set(names) - set(GROUPS)
    if unknown:
        print(f"unknown group {', '.join(sorted(unknown))}; there are {', '.join(GROUPS)}", file=sys.stderr)
        return 2
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr), wrapper_class=structlog.make_filtering_bound_logger(30))
    figures: list[Figure] = []
    for name in names or QUICK:
        print(f"measuring {name} ...", file=sys.stderr)
        command = next((said for said, group in COMMANDS if name in group), "make bench-delivery")
        found = [replace(figure, command=command) for figure in GROUPS[name]()]
        write(found)  # each group at once: the next may take minutes, or fail
        figures.extend(found)
        tables.main([])
    table = Table("figure", "value", "unit", "goal", "peer", "peer's value")
    for figure in figures:
        peer = "" if figure.peer_value is None else f"{figure.peer_value:.4g}"
        table.add_row(figure.name, f"{figure.value:.4g}", figure.unit, figure.goal, figure.peer, peer)
    Console(width=150).print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
