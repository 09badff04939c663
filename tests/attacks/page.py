"""The section of docs/security.md that says what the suite covers, from its own list: `python -m tests.attacks.page` writes it."""

from pathlib import Path
from typing import Final

from tests.attacks import attacks_on_delivery, attacks_on_hub, attacks_on_port, attacks_on_trust  # noqa: F401  # they add to the list
from tests.attacks.catalogue import Group, of
from tests.attacks.elsewhere import ELSEWHERE
from tools.markdown import block, table

PAGE = Path(__file__).parents[2] / "docs" / "security.md"
GROUPS: Final[dict[Group, str]] = {
    "trust": "a node: roles, roots, releases, statements and settings, from an attacker who has the broker and some stolen keys",
    "transport": "a node: blocks that a broker changes, and payloads that a hostile team signs",
    "artifact": "a node: paths in manifests, and models that attack what loads them, signed by a hostile team",
    "port": "a node: web pages and local programs at the device's own port",
    "fleet": "a hub: enrolled nodes, and strangers where nobody keeps them out",
    "access": "mosquitto's access list",
}


def section() -> list[str]:
    """Return the list of attacks."""
    rows = [
        [f"`{group}`", victim, str(len(of(group))), ", ".join(one.name.replace("_", " ") for one in of(group))]
        for group, victim in GROUPS.items()
    ]
    others = [
        f"- {what}: {', '.join(test.partition('::test_')[2].replace('_', ' ') for test in tests)}." for what, tests in ELSEWHERE.items()
    ]
    return [
        *table(("group", "what is attacked", "attacks", "each"), rows),
        "",
        "The suite also runs these tests from elsewhere:",
        "",
        *others,
    ]


def page() -> str:
    """Return the page as it has to be."""
    return block(PAGE.read_text(), "attacks", section())


if __name__ == "__main__":
    PAGE.write_text(page())
