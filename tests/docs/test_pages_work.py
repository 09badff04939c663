"""README, the tutorial, the drills and a simulation, followed to the letter in an empty folder: every command does what the page says."""

from pathlib import Path

import pytest

from tests.docs.pages import CHECKOUT, followed, missing, steps_of

DRILLS = ("team-key-stolen", "root-holder-left", "simulate-a-rollout")


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "name",
    [
        pytest.param("README.md", marks=pytest.mark.slow),
        pytest.param("docs/tutorial.md", marks=pytest.mark.slow),
        *(pytest.param(f"docs/how-to/{name}.md", marks=pytest.mark.slow) for name in DRILLS),
    ],
)
def test_a_newcomer_who_follows_the_page_sees_what_it_says(name: str, tmp_path: Path) -> None:
    steps = steps_of(CHECKOUT / name)
    assert steps

    printed = followed(steps, tmp_path, seconds=500)

    for step, shown in zip(steps, printed, strict=True):
        assert missing(shown, step.printed) == [], f"{step.commands}\nprinted\n{shown}"


def test_a_line_that_was_not_printed_is_named() -> None:
    printed = "model    delay\nversion  1.0.0\n"

    assert missing(printed, ("model delay", "version ...")) == []
    assert missing(printed, ("version 1.0.0", "model delay")) == ["model\\ delay"]


def test_readme_has_ten_lines_and_at_most_700_words() -> None:
    (step,) = steps_of(CHECKOUT / "README.md")

    assert len(step.commands.splitlines()) == 10
    assert len((CHECKOUT / "README.md").read_text().split()) <= 700
