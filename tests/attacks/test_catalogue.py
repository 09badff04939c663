"""The list of attacks itself: it is long enough, each has a code, and docs/security.md names them all."""

import subprocess
from pathlib import Path

from schemas.errors import Code
from tests.attacks import page
from tests.attacks.catalogue import ATTACKS
from tests.attacks.elsewhere import ELSEWHERE

ROOT = Path(__file__).parents[2]


def test_there_are_at_least_60_attacks_each_with_a_code() -> None:
    known = {*map(str, Code), "acl", "closed", "431"}

    assert len(ATTACKS) >= 60
    assert [one.name for one in ATTACKS if not one.codes or not set(one.codes) <= known] == []
    assert {one.group for one in ATTACKS} == set(page.GROUPS)


def test_the_page_on_security_lists_every_attack() -> None:
    assert page.page() == page.PAGE.read_text(), "python -m tests.attacks.page"


def test_attacks_that_are_made_elsewhere_are_there() -> None:
    for test in (one for those in ELSEWHERE.values() for one in those):
        path, _, name = test.partition("::")
        assert f"def {name}(" in (ROOT / path).read_text(), test


def test_the_conformance_client_tells_how_it_is_called() -> None:
    done = subprocess.run([ROOT / "tests/attacks/conformance-client", "--help"], capture_output=True, text=True, check=True, timeout=100)

    assert "refresh" in done.stdout
