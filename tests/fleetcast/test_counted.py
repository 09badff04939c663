"""One node, two nodes."""

from fleetcast.counted import counted, verb


def test_one_of_a_thing_has_no_plural() -> None:
    assert [f"{counted(number, 'node')} {verb(number, 'serve')} it" for number in (0, 1, 2)] == [
        "0 nodes serve it",
        "1 node serves it",
        "2 nodes serve it",
    ]
