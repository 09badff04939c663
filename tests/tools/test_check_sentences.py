"""The worst sentences are refused, each by its rule, and exceptions can only shrink."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tools import check_sentences
from tools.check_sentences import ALLOWED, RULES, Hit, hits, over

Checkout = Callable[[str, str], Path]


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    def write(path: str, text: str) -> Path:
        file = tmp_path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
        return tmp_path

    return write


BAD = {
    "comment-of": ("hub/core/one.py", "SIZE = 1  # of a window\n"),
    "docstring-verb": ("node/one.py", 'def full() -> bool:\n    """Whether it is full."""\n    return True\n'),
    "class-docstring-verb": ("hub/one.py", 'class Bin:\n    """One bin."""\n'),
    "whoever": ("docs/one.md", "Whoever asks is answered.\n"),
    "likewise": ("hub/cli/one.py", 'HELP = "Likewise."\n'),
    "event-told": ("hub/service/one.py", 'log.info("insight.not_said", topic="a")\n'),
    "test-name": ("tests/test_one.py", f"def test_{'a' * 86}() -> None:\n    pass\n"),
}


def test_this_checkout_passes_with_its_listed_exceptions(capsys: pytest.CaptureFixture[str]) -> None:
    assert check_sentences.main() == 0, capsys.readouterr().out


@pytest.mark.parametrize("rule", RULES)
def test_each_rule_finds_its_pattern_at_its_line(rule: str, checkout: Checkout) -> None:
    path, text = BAD[rule]
    folder = checkout(path, text)

    assert [(hit.rule, hit.path, hit.line) for hit in hits(folder)] == [(rule, path, 1)]


def test_good_sentences_are_not_hits(checkout: Checkout) -> None:
    checkout("hub/one.py", '"""Of modules nothing is refused."""\nSIZE = 1  # Rows of a window.\nTEXT = "# of a string"\n')
    checkout("hub/two.py", 'def full() -> bool:\n    """Return whether it is full."""\n    log.info("window.reported", said=1)\n')
    checkout("tests/test_one.py", f"def test_{'a' * 85}() -> None:\n    pass\n")
    folder = checkout("docs/one.md", "It is likewise good.\n")

    assert list(hits(folder)) == []


def test_a_page_with_likewise_as_its_only_meaning_is_a_hit(checkout: Checkout) -> None:
    folder = checkout("docs/one.md", "| option | meaning |\n|---|---|\n| `--delta` | Likewise. |\n")

    assert [(hit.rule, hit.line) for hit in hits(folder)] == [("likewise", 3)]


def test_a_count_may_fall_and_not_rise() -> None:
    found = [Hit("comment-of", f"hub/core/{number}.py", 1, "# of it") for number in range(2)]

    assert over(found, {("comment-of", "hub/core"): (2, "why")}) == ([], [])
    assert over(found, {("comment-of", "hub/core"): (1, "why")}) == (found, [])
    assert over(found, {}) == (found, [])
    refused, lower = over(found, {("comment-of", "hub/core"): (3, "why")})
    assert refused == []
    assert lower == ["comment-of in hub/core: 3 are allowed, 2 are there: lower the count in tools/check_sentences.py"]


def test_the_deepest_listed_folder_counts_for_a_hit() -> None:
    found = [Hit("comment-of", "hub/core/one.py", 1, "# of it"), Hit("comment-of", "hub/one.py", 1, "# of it")]

    assert over(found, {("comment-of", "hub"): (1, "why"), ("comment-of", "hub/core"): (0, "why")})[0] == found[:1]


def test_every_exception_names_a_rule_and_has_a_reason() -> None:
    assert all(rule in RULES and most > 0 and reason for (rule, _), (most, reason) in ALLOWED.items())


def test_every_refusal_names_the_file_the_line_and_the_rule(checkout: Checkout, capsys: pytest.CaptureFixture[str]) -> None:
    folder = checkout("schemas/one.py", "ONE = 1\nSIZE = 1  # of a window\n")

    assert check_sentences.main(folder) == 1
    assert capsys.readouterr().out.startswith(
        "schemas/one.py:2: '# of a window'. A comment begins with its subject, not with 'of'. [comment-of]\n"
    )
