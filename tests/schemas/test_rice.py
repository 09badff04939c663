"""Rice codes say the same numbers again, whatever they are, in about as many bits as the numbers hold."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas import rice
from schemas.errors import Code, Refused

NUMBERS = st.lists(st.integers(-rice.VALUE_MAX, rice.VALUE_MAX), max_size=300)


@given(NUMBERS)
def test_numbers_come_back(numbers: list[int]) -> None:
    packed = rice.pack(np.array(numbers, np.int64))

    assert rice.unpack(packed, len(numbers), what="it").tolist() == numbers


@given(st.lists(st.lists(st.integers(-rice.VALUE_MAX, rice.VALUE_MAX), min_size=7, max_size=7), min_size=1, max_size=20))
def test_many_at_once_are_each_as_alone(table: list[list[int]]) -> None:
    packed = [rice.pack(np.array(numbers, np.int64)) for numbers in table]

    assert rice.unpack_many(packed, 7, what="it").tolist() == table


@given(st.lists(st.binary(max_size=12), min_size=1, max_size=5), st.integers(1, 9))
def test_any_bytes_among_many_are_numbers_or_are_refused_as_alone(packed: list[bytes], count: int) -> None:
    def alone() -> object:
        try:
            return [rice.unpack(data, count, what="it").tolist() for data in packed]
        except Refused as refusal:
            return refusal.code

    try:
        found: object = rice.unpack_many(packed, count, what="it").tolist()
    except Refused as refusal:
        found = refusal.code

    assert found == alone()


@given(st.lists(st.integers(-2000, 2000), min_size=1, max_size=300))
def test_no_code_is_longer_than_the_worst_number_asks_for(numbers: list[int]) -> None:
    bits = max(abs(number) for number in numbers).bit_length() + 1

    assert len(rice.pack(np.array(numbers, np.int64))) <= 1 + math.ceil(len(numbers) * (bits + 2) / 8)


@given(st.binary(max_size=200), st.integers(0, 100))
def test_any_bytes_are_numbers_or_are_refused(data: bytes, count: int) -> None:
    try:
        found = rice.unpack(data, count, what="it").tolist()
    except Refused as refusal:
        found = refusal.code

    assert found is Code.WINDOW_SHAPE or len(found) == count


@pytest.mark.parametrize("change", [1, -1])
def test_one_number_more_or_fewer_is_refused(change: int) -> None:
    packed = rice.pack(np.arange(100))

    with pytest.raises(Refused, match="expected"):
        rice.unpack(packed, 100 + 8 * change, what="it")


def test_noise_takes_at_most_a_tenth_of_a_bit_more_than_its_entropy() -> None:
    sigma = 3.78
    values = np.round(np.random.default_rng(0).normal(0, sigma, 100_000)).astype(np.int64)

    bits = 8 * len(rice.pack(values)) / len(values)

    assert bits <= math.log2(sigma * math.sqrt(2 * math.pi * math.e)) + 0.15
