"""Which connection has to go for a new one."""

import pytest

from hub.core.floods.connection_limit import Doorkeeper, origin_of


def enter(door: Doorkeeper, numbers: range, address: str, *, connections_max: int = 8, address_max: int = 4) -> list[int]:
    return [gone for number in numbers for gone in door.enter(number, address, connections_max=connections_max, address_max=address_max)]


def test_the_oldest_of_an_address_goes_when_it_has_too_many() -> None:
    door = Doorkeeper()

    assert enter(door, range(6), "192.0.2.1") == [0, 1]
    assert len(door) == 4


def test_past_all_of_them_the_address_that_has_most_gives_one_up() -> None:
    door = Doorkeeper()
    enter(door, range(2), "192.0.2.1")
    enter(door, range(10, 14), "192.0.2.2")
    enter(door, range(20, 22), "192.0.2.3")

    assert enter(door, range(30, 31), "192.0.2.4") == [10]


def test_a_connection_that_was_closed_counts_no_more_and_twice_is_nothing() -> None:
    door = Doorkeeper()
    enter(door, range(4), "192.0.2.1")

    door.leave(2)
    door.leave(2)

    assert enter(door, range(4, 5), "192.0.2.1") == []
    assert len(door) == 4


@pytest.mark.parametrize(
    ("address", "origin"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3::4", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("no address", "no address"),
    ],
)
def test_a_site_has_one_origin(address: str, origin: str) -> None:
    assert origin_of(address) == origin


def test_a_connection_that_is_kept_goes_for_no_other_one() -> None:
    door = Doorkeeper()
    for number in range(4):
        door.enter(number, "10.0.0.1", connections_max=4, address_max=4)
        if number < 3:
            door.keep(number)

    assert door.enter(4, "10.0.0.1", connections_max=4, address_max=4) == [3]
    door.keep(4)
    assert door.enter(5, "10.0.0.1", connections_max=4, address_max=4) == [5]  # All others are kept.
    door.leave(1)
    assert door.enter(6, "10.0.0.1", connections_max=4, address_max=4) == []
    assert len(door) == 4
