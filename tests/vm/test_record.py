"""The record that judges a power cut finds each kind of loss, and nothing where nothing was lost."""

import base64
import copy
from collections.abc import Callable
from typing import Any

import pytest

from schemas import codec
from schemas.receipt import Receipt, SealedReceipt
from schemas.window import Window
from tests.vm.record import DAY_SECONDS, Record

DAY = 20_000
RELEASE = bytes(range(32))
RHO = 0.03


def window(number: int, start: int) -> bytes:
    return codec.encode(Window(id=bytes([number]) * 16, release=RELEASE[:8], start=start, seconds=60, rows=1, counts=b"\0\0"))


def receipt(sequence: int, code: str = "") -> bytes:
    body = codec.encode(Receipt(node="gate-17", sequence=sequence, at=1, outcome="serving", code=code))
    return codec.encode(SealedReceipt(body=body, signature=b"s"))


def found() -> dict[str, Any]:
    """Two windows and a receipt; the hub has one of the windows."""
    starts = [DAY * DAY_SECONDS + 60 * number for number in range(2)]
    messages = [("window", window(1, starts[0])), ("window", window(2, starts[1])), ("receipt", receipt(1))]
    node = {
        "new": [(number, kind, base64.b64encode(payload).decode()) for number, (kind, payload) in enumerate(messages, 1)],
        "outbox": [(1, "window", 1), (2, "window", 0), (3, "receipt", 1)],
        "spent": {str(DAY): 2 * RHO},
        "windows": [(RELEASE.hex(), start, RHO) for start in starts],
        "ledger": [(1, "aa"), (2, "bb")],
        "charged": [([DAY], RHO), ([DAY], RHO)],
        "facts": {},
        "slots": [{"state": "active"}],
    }
    hub = {
        "seen": [(b"\1" * 16).hex()],
        "counted": 1,
        "early": 0,
        "receipts": [("gate-17", 0, 1, "serving", "1.0.0", "digest")],
        "rollouts": [("press", "default", 3)],
        "refusals": [],
    }
    return {"node": node, "hub": hub}


def test_nothing_is_lost_where_all_is_still_there() -> None:
    record = Record(rho_day_max=0.7)

    assert record.absorb(found()) == []
    assert record.waiting == [f"window {'02' * 16}"]
    again = found()
    again["node"]["new"] = []
    again["hub"] |= {"seen": [(bytes([number]) * 16).hex() for number in (1, 2)], "counted": 2}

    assert record.absorb(again) == []
    assert (record.waiting, record.after) == ([], 3)


def test_a_process_that_is_not_up_yet_has_lost_nothing() -> None:
    record = Record(rho_day_max=0.7)
    record.absorb(found())

    assert record.absorb({"node": None, "hub": None}) == []


def forgets_window(after: dict[str, Any]) -> None:
    after["hub"] |= {"seen": [], "counted": 0}


def counts_twice(after: dict[str, Any]) -> None:
    after["hub"]["counted"] = 2


def loses_receipt(after: dict[str, Any]) -> None:
    after["hub"]["receipts"] = []


def loses_rollout(after: dict[str, Any]) -> None:
    after["hub"]["rollouts"] = [("press", "default", 2)]


def loses_message(after: dict[str, Any]) -> None:
    after["node"]["outbox"] = [row for row in after["node"]["outbox"] if row[0] != 2]


def leaves_again(after: dict[str, Any]) -> None:
    after["node"]["new"] = [(4, "window", base64.b64encode(window(9, DAY * DAY_SECONDS)).decode())]


def signs_twice(after: dict[str, Any]) -> None:
    after["node"]["new"] = [(4, "receipt", base64.b64encode(receipt(1, "other")).decode())]


def gets_budget_back(after: dict[str, Any]) -> None:
    after["node"] |= {"spent": {str(DAY): RHO}, "charged": [([DAY], RHO)]}


def overspends(after: dict[str, Any]) -> None:
    after["node"] |= {"spent": {str(DAY): 0.9}, "charged": [([DAY], 0.9)]}


def spends_beside_ledger(after: dict[str, Any]) -> None:
    after["node"]["spent"] = {str(DAY): 3 * RHO}


def rewrites_ledger(after: dict[str, Any]) -> None:
    after["node"]["ledger"] = [(1, "aa"), (2, "cc")]


def forgets_charge(after: dict[str, Any]) -> None:
    after["node"]["windows"] = after["node"]["windows"][:1]


def damages_database(after: dict[str, Any]) -> None:
    after["hub"] = {"error": "database disk image is malformed"}


@pytest.mark.parametrize(
    "loss",
    [
        forgets_window,
        counts_twice,
        loses_receipt,
        loses_rollout,
        loses_message,
        leaves_again,
        signs_twice,
        gets_budget_back,
        overspends,
        spends_beside_ledger,
        rewrites_ledger,
        forgets_charge,
        damages_database,
    ],
)
def test_each_kind_of_loss_is_found(loss: Callable[[dict[str, Any]], None]) -> None:
    record = Record(rho_day_max=0.7)
    record.absorb(found())
    after = copy.deepcopy(found())
    after["node"]["new"] = []
    loss(after)

    assert record.absorb(after)
