"""Keep, outside the guest, what it has been seen to have made durable, and find what a later look lacks."""

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from schemas import codec
from schemas.receipt import Receipt, SealedReceipt
from schemas.window import Window

DAY_SECONDS: Final = 86_400
ROUNDING: Final = 1e-9


@dataclass
class Record:
    """Remember each look into both databases; SQLite shows another process what is committed, and committed is durable here."""

    rho_day_max: float
    windows: dict[str, tuple[str, int]] = field(default_factory=dict)  # id: release and start
    of_interval: dict[tuple[str, int], str] = field(default_factory=dict)
    outbox: dict[int, tuple[str, str]] = field(default_factory=dict)  # number: kind and id, or sequence
    sent: dict[int, bool] = field(default_factory=dict)
    seen: set[str] = field(default_factory=set)
    closed: dict[tuple[str, int], float] = field(default_factory=dict)
    spent: dict[int, float] = field(default_factory=dict)
    heads: dict[int, str] = field(default_factory=dict)
    signed: dict[int, str] = field(default_factory=dict)  # receipts by their sequence: body
    receipts: dict[tuple[str, int, int], str] = field(default_factory=dict)
    serials: dict[tuple[str, str], int] = field(default_factory=dict)
    has_read: set[str] = field(default_factory=set)  # of hub and node, since the last boot
    slot: str = "idle"  # the state of the node's model
    counted: int = 0

    @property
    def after(self) -> int:
        """Return the number of the newest message of the outbox that was read."""
        return max(self.outbox, default=0)

    @property
    def waiting(self) -> list[str]:
        """Return what is not yet where it belongs: messages of the node that the hub lacks."""
        known = {sequence for _, _, sequence in self.receipts}
        lacking = [f"window {one}" for one in self.windows if one not in self.seen]
        return lacking + [f"receipt {sequence}" for sequence in self.signed if sequence not in known]

    def absorb(self, look: Mapping[str, Any]) -> list[str]:
        """Take a look in, and return what is lost, overspent or counted twice, compared with all looks before."""
        losses: list[str] = []
        for side, take in (("hub", self._take_hub), ("node", self._take_node)):
            found = look[side]
            if found is None:  # its process is not up yet
                continue
            if "error" in found:
                losses.append(f"the {side}'s database: {found['error']}")
                continue
            losses += take(found)
            self.has_read.add(side)
        return losses

    def _take_hub(self, found: Mapping[str, Any]) -> list[str]:
        seen = set(found["seen"])
        losses = [f"the hub has forgotten window {one}" for one in self.seen - seen]
        if found["counted"] != len(seen):
            losses.append(f"the hub has counted {found['counted']} windows, and knows {len(seen)}")
        receipts = {(node, epoch, sequence): digest for node, epoch, sequence, _, _, digest in found["receipts"]}
        losses += [f"the hub has lost receipt {key}" for key, digest in self.receipts.items() if receipts.get(key) != digest]
        serials = {(model, deployment): serial for model, deployment, serial in found["rollouts"]}
        losses += [f"rollout {key} is back at {serials.get(key)}" for key, serial in self.serials.items() if serials.get(key, -1) < serial]
        losses += [f"the hub refused {topic}: {code}: {reason}" for topic, code, reason in found["refusals"]]
        self.seen |= seen
        self.counted = found["counted"]
        self.receipts |= receipts
        self.serials |= serials
        return losses

    def _take_node(self, found: Mapping[str, Any]) -> list[str]:
        self.slot = next((str(slot["state"]) for slot in found["slots"]), "idle")
        there = {number: bool(sent) for number, _, sent in found["outbox"]}
        losses = []
        for number, (kind, name) in self.outbox.items():
            if number not in there and not (self.sent[number] or name in self.seen):
                losses.append(f"the node has lost {kind} {name}, which it had not sent")
        for number, kind, payload in found["new"]:
            losses += self._take_message(number, kind, base64.b64decode(payload))
        for number, sent in there.items():
            self.sent[number] = sent or self.sent.get(number, False)
        closed = {(release, start): rho for release, start, rho in found["windows"]}
        losses += [f"the node has lost its note of window {key}" for key, rho in self.closed.items() if closed.get(key) != rho]
        self.closed |= closed
        return losses + self._take_ledger(found) + self._uncharged()

    def _take_message(self, number: int, kind: str, payload: bytes) -> list[str]:
        if kind == "receipt":
            sealed = codec.decode(SealedReceipt, payload)
            sequence = codec.decode(Receipt, sealed.body).sequence
            self.outbox[number] = (kind, str(sequence))
            if self.signed.setdefault(sequence, sealed.body.hex()) != sealed.body.hex():
                return [f"receipt {sequence} was signed twice, with different bodies"]
        elif kind == "window":
            window = codec.decode(Window, payload)
            interval, name = (window.release.hex(), window.start), window.id.hex()
            self.outbox[number] = (kind, name)
            self.windows[name] = interval
            if self.of_interval.setdefault(interval, name) != name:
                return [f"interval {interval} has left twice, under two ids"]
        return []

    def _take_ledger(self, found: Mapping[str, Any]) -> list[str]:
        spent = {int(day): rho for day, rho in found["spent"].items()}
        losses = [f"day {day} has its budget back" for day, rho in self.spent.items() if spent.get(day, 0.0) < rho - ROUNDING]
        losses += [f"day {day} has spent {rho}" for day, rho in spent.items() if rho > self.rho_day_max + ROUNDING]
        charged: dict[int, float] = {}
        for days, rho in found["charged"]:
            for day in days:
                charged[day] = charged.get(day, 0.0) + rho
        losses += [
            f"day {day} has spent {rho}, and its ledger says {charged.get(day)}"
            for day, rho in spent.items()
            if abs(charged.get(day, 0) - rho) > 1e-6
        ]
        heads = dict(found["ledger"])
        losses += [f"entry {number} of the ledger has changed" for number, head in self.heads.items() if heads.get(number) != head]
        self.spent |= spent
        self.heads |= heads
        return losses

    def _uncharged(self) -> list[str]:
        losses, of_day = [], dict[int, float]()
        closed = {(release[:16], start): rho for (release, start), rho in self.closed.items()}
        for release, start in self.windows.values():
            rho = closed.get((release, start), 0.0)
            if rho <= 0:
                losses.append(f"the window of {release} at {start} was charged to nobody")
            of_day[start // DAY_SECONDS] = of_day.get(start // DAY_SECONDS, 0.0) + rho
        return losses + [
            f"windows of day {day} cost {rho}, more than was spent" for day, rho in of_day.items() if rho > self.spent.get(day, 0) + 1e-6
        ]
