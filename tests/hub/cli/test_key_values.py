"""Options of KEY=VALUE: of two values of one key, none is taken in silence."""

import pytest

from hub.cli.errors import Exit
from hub.database.store import Store
from tests.databases import url_of
from tests.hub.cli.fleets import Made, make


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    made = make(tmp_path_factory.mktemp("made"), "m")
    assert made.publish("1.0.0").returncode == 0
    return made


@pytest.mark.parametrize(
    "command",
    [("rollout", "start", "m@1.0.0"), ("rollout", "start", "m@1.0.0", "--force"), ("plan", "m@1.0.0"), ("enroll", "token", "--node", "n")],
)
def test_a_label_that_is_given_two_values_is_refused_with_both(made: Made, command: tuple[str, ...]) -> None:
    done = made.run(*command, "--label", "ring=main", "--label", "ring=canary")

    assert done.returncode == Exit.USAGE, done.stderr
    sentence = " ".join(done.stderr.split())
    assert "--label 'ring' is given two values, 'main' and 'canary': give only one of the two" in sentence
    store = Store(url_of(made.fleet / "hub.sqlite"))
    assert store.open_commands() == []
    store.close()


@pytest.mark.parametrize(
    ("command", "key"),
    [
        (("plan", "m@1.0.0", "--rate", "metered=1", "--rate", "metered=2"), "--rate 'metered'"),
        (("rollout", "start", "m@1.0.0", "--set", "threshold=1", "--set", "threshold=2"), "parameter 'threshold'"),
    ],
)
def test_a_rate_or_a_parameter_that_is_given_two_values_is_refused(made: Made, command: tuple[str, ...], key: str) -> None:
    done = made.run(*command)

    assert done.returncode == Exit.USAGE, done.stderr
    assert f"{key} is given two values, '1' and '2': give only one of the two" in " ".join(done.stderr.split())


def test_a_label_that_is_given_twice_alike_counts_once(made: Made) -> None:
    assert made.run("plan", "m@1.0.0", "--label", "ring=main", "--label", "ring=main").returncode == 0


@pytest.mark.parametrize(
    ("command", "wrong", "words"),
    [
        (
            ("rollout", "start", "m@1.0.0"),
            ("--stages", ""),
            "--stages: part 1, '': '' is no percentage from 1 to 100",
        ),
        (("rollout", "start", "m@1.0.0"), ("--stages", "1,x"), "--stages: part 1, '1,x': 'x' is no percentage from 1 to 100"),
        (("rollout", "start", "m@1.0.0"), ("--label", "ring"), "--label 'ring' must be KEY=VALUE"),
        (("plan", "m@1.0.0"), ("--label", "=canary"), "--label '=canary' must be KEY=VALUE"),
    ],
)
def test_a_wrong_option_is_named_alone(made: Made, command: tuple[str, ...], wrong: tuple[str, ...], words: str) -> None:
    done = made.run(*command, *wrong)

    assert done.returncode == Exit.USAGE, done.stderr
    assert words in " ".join(done.stderr.split())
    assert ("--label" in done.stderr) == ("--label" in wrong)
