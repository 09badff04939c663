"""Answer whether all is well, and if not, what needs somebody."""

from collections import Counter
from typing import Final

from hub.core.rollouts.node_class import CLASSES
from hub.web.console.page import Answer, Page, View
from hub.web.console.sentence import said


def load(view: View) -> Answer:
    """Return the first page."""
    counts = Counter(line.found.name for line in view.snapshot.worst.values())
    return Answer(said("The fleet"), "fleetcast nodes", {"counts": {name: counts[name] for name in CLASSES}})


PAGES: Final = (Page("/", "fleet.html", load, "Fleet"),)
