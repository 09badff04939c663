"""What is wrong with nodes by their own word, and which builds they run, for commands that show nodes."""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hub.core.rollouts.refusals import Reported, findings_of, fold
from hub.database.rows import ReceiptRow
from schemas import codec
from schemas.errors import Code, Refused
from schemas.receipt import Receipt, SealedReceipt
from schemas.state import Finding, State

if TYPE_CHECKING:
    from hub.database.store import Store

LINES_MAX = 10
PAGE_NAMES_MAX = 500  # Names of one query.
NAMES_SHOWN = 3


def findings_by_node(directory: Path, states: Mapping[str, State], open_store: "Callable[[], Store]") -> dict[str, tuple[Finding, ...]]:
    """Return what is wrong with each node now. The store is opened where nodes of an earlier version are among them."""
    older = sorted(name for name, state in states.items() if state.findings is None)
    refused = _refused(open_store(), older) if older else {}
    timestamp = _newest_timestamp(directory)
    for name in refused:
        if states[name].timestamp_version >= timestamp:  # It follows: whatever it refused at the time, it has taken a newer one.
            refused[name] = {model: one for model, one in refused[name].items() if model}
    return {name: _believed(findings_of(state, refused.get(name, {}))) for name, state in states.items()}


def _refused(store: "Store", older: Sequence[str]) -> dict[str, Mapping[str, Reported]]:
    """Return what receipts say that older nodes refuse: as the hub has kept it, or read again where newer ones have come."""
    from hub.core.rollouts.proof import Proof, refused_of  # noqa: PLC0415  # nodes of this version are listed without it

    found = dict[str, Mapping[str, Reported]]()
    for at in range(0, len(older), PAGE_NAMES_MAX):
        names = older[at : at + PAGE_NAMES_MAX]
        proofs = store.proofs(names)
        for name in names:
            try:
                found[name] = refused_of(codec.decode(Proof, proofs[name]))
            except (KeyError, Refused):
                found[name] = _folded(store.receipts(node=name))
    return found


def _folded(receipts: Sequence[ReceiptRow]) -> Mapping[str, Reported]:
    refused: Mapping[str, Reported] = {}
    for row in sorted(receipts, key=lambda row: row.sequence):
        if row.outcome == "serving" or row.digest is None:  # The others change nothing that is kept, and there are many.
            refused = fold(refused, codec.decode(Receipt, codec.decode(SealedReceipt, row.sealed).body))
    return refused


def _believed(found: tuple[Finding, ...]) -> tuple[Finding, ...]:
    """Leave out that its key does not count: the hub believes the device that says so, and says itself where another one speaks."""
    return tuple(one for one in found if one.code != Code.RECEIPT_KEY_CHANGED)


def _newest_timestamp(directory: Path) -> int:
    """Return the version of the hub's timestamp; it is read here, for the repository's own library takes a while to import."""
    try:
        return int(json.loads((directory / "trust" / "metadata" / "current.json").read_bytes())["timestamp"])
    except (OSError, ValueError, KeyError, TypeError):
        return 2**53


def builds(software: Iterable[tuple[str, str]], *, which: str = "Nodes") -> str:
    """Return which builds nodes run, given each node's name and software; "" if they all run one. `which` says which nodes these are."""
    nodes: dict[str, list[str]] = {}
    for name, build in software:
        nodes.setdefault(build or "an unknown build", []).append(name)
    if len(nodes) < 2:
        return ""
    counts = Counter({build: len(names) for build, names in nodes.items()})
    return f"{which} run {len(nodes)} builds: " + ", ".join(
        f"{build} on {count} ({', '.join(nodes[build])})" if count <= NAMES_SHOWN else f"{build} on {count}"
        for build, count in counts.most_common()
    )


def shortened(lines: Sequence[str], *, mend: str) -> Iterator[str]:
    """Yield as many lines as a person reads, and how many more there are."""
    yield from lines[:LINES_MAX]
    if len(lines) > LINES_MAX:
        yield f"... and {len(lines) - LINES_MAX} more; {mend}"
