"""Two devices with one name are told apart from one that restarts, and from messages that come twice or late."""

from hypothesis import given
from hypothesis import strategies as st

from hub.core.rollouts.duplicates import PROCESSES_KEPT, Speakers, spoke


def signs(*spoken: tuple[str, int]) -> list[bool]:
    known, found = Speakers(), list[bool]()
    for process, session in spoken:
        known, shows_two = spoke(known, process, session)
        found.append(shows_two)
    return found


def test_a_process_that_connects_again_after_another_one_is_a_second_device() -> None:
    assert signs(("a", 11), ("b", 11), ("a", 12), ("b", 12)) == [False, False, True, True]


def test_a_node_that_restarts_and_connects_often_is_one_device() -> None:
    assert not any(signs(("a", 1), ("a", 2), ("b", 3), ("b", 3), ("b", 4), ("c", 5)))


def test_a_node_that_lost_its_store_is_one_device() -> None:
    assert not any(signs(("a", 40), ("b", 1), ("b", 2)))


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=12), st.data())
def test_states_of_one_device_that_come_twice_show_no_second(lives: list[str], data: st.DataObject) -> None:
    spoken = [(process, number + 1) for number, process in enumerate(sorted(lives))]
    again = [one for one in spoken for _ in range(data.draw(st.integers(1, 2)))]
    late = data.draw(st.lists(st.sampled_from(spoken), max_size=4))

    assert not any(signs(*again, *late))


def test_invented_processes_take_no_memory() -> None:
    known = Speakers()
    for number in range(100):
        known, _ = spoke(known, str(number), number)

    assert len(known.sessions) <= PROCESSES_KEPT
