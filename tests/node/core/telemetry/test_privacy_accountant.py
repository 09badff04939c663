"""Whatever is changed in a chain of charges, or missing at its end, is told; an honest chain is believed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.core.telemetry.privacy_accountant import START, Entry, Witness, check, following
from schemas.errors import Code, Refused

BEGIN = Witness(0, START)


def chain(rhos: list[float]) -> list[Entry]:
    entries: list[Entry] = []
    last = BEGIN
    for number, rho in enumerate(rhos):
        entries.append(following(last, at=number, days=(number // 2,), rho=rho, what="window"))
        last = Witness(entries[-1].number, entries[-1].head)
    return entries


def spent(entries: list[Entry]) -> dict[int, float]:
    found: dict[int, float] = {}
    for entry in entries:
        for day in entry.days:
            found[day] = found.get(day, 0.0) + entry.rho
    return found


def seen(entry: Entry) -> Witness:
    return Witness(entry.number, entry.head)


RHOS = st.lists(st.floats(0.001, 0.7), min_size=1, max_size=20)


@given(RHOS, st.data())
def test_an_honest_chain_is_believed_with_any_witness_of_its_past(rhos: list[float], data: st.DataObject) -> None:
    entries = chain(rhos)
    witness = data.draw(st.sampled_from([BEGIN, *map(seen, entries)]))

    check(entries, before=BEGIN, spent=spent(entries), witness=witness)


@given(RHOS, st.data())
def test_a_cheaper_entry_is_told(rhos: list[float], data: st.DataObject) -> None:
    entries = chain(rhos)
    number = data.draw(st.integers(0, len(entries) - 1))
    sums, last = spent(entries), seen(entries[-1])
    entries[number] = entries[number]._replace(rho=0.0)

    with pytest.raises(Refused) as refusal:
        check(entries, before=BEGIN, spent=sums, witness=last)
    assert refusal.value.code is Code.LEDGER_TAMPERED


def test_an_entry_that_was_taken_out_is_told() -> None:
    entries = chain([0.1] * 5)

    with pytest.raises(Refused) as refusal:
        check(entries[:2] + entries[3:], before=BEGIN, spent=spent(entries), witness=seen(entries[-1]))
    assert refusal.value.code is Code.LEDGER_TAMPERED


def test_a_sum_that_was_lowered_is_told() -> None:
    entries = chain([0.1] * 5)

    with pytest.raises(Refused, match="day 1") as refusal:
        check(entries, before=BEGIN, spent={**spent(entries), 1: 0.05}, witness=seen(entries[-1]))
    assert refusal.value.code is Code.LEDGER_TAMPERED


@pytest.mark.parametrize("kept", [0, 1, 4])
def test_an_old_copy_is_told_by_its_witness(kept: int) -> None:
    entries = chain([0.1] * 5)

    with pytest.raises(Refused) as refusal:
        check(entries[:kept], before=BEGIN, spent=spent(entries[:kept]), witness=seen(entries[-1]))
    assert refusal.value.code is Code.LEDGER_ROLLED_BACK


def test_an_old_copy_that_went_on_by_itself_is_told() -> None:
    entries, other = chain([0.1] * 5), chain([0.1, 0.1, 0.2, 0.2, 0.2, 0.2])

    with pytest.raises(Refused) as refusal:
        check(other, before=BEGIN, spent=spent(other), witness=seen(entries[-1]))
    assert refusal.value.code is Code.LEDGER_ROLLED_BACK


def test_a_witness_that_is_gone_is_told_but_for_the_first_start() -> None:
    entries = chain([0.1])

    check([], before=BEGIN, spent={}, witness=None)
    with pytest.raises(Refused) as refusal:
        check(entries, before=BEGIN, spent=spent(entries), witness=None)
    assert refusal.value.code is Code.LEDGER_ROLLED_BACK


def test_entries_that_were_let_go_are_not_missed() -> None:
    entries = chain([0.1] * 5)

    check(entries[3:], before=seen(entries[2]), spent=spent(entries), witness=seen(entries[-1]))
