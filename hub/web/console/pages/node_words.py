"""Say of a node what lists and its own page say: what it does or why not, where it is, what it serves."""

from typing import Any

from markupsafe import Markup

from hub.core.rollouts.node_class import NodeClass
from hub.operations.deployed import model_of
from hub.operations.node_classes import NodeLine
from hub.web.console.page import View
from hub.web.console.sentence import code, path, said

WANTED_SECONDS = 2.0


def wanted(view: View) -> dict[tuple[str, str], str]:
    """Return the version that each deployment moves its nodes to, by model and deployment; read once for all viewers."""

    def read() -> dict[tuple[str, str], str]:
        repository = view.fleet.repository
        return {(name, one.name): one.release.version for name in repository.models() for one in model_of(repository, name).deployments}

    return view.shared.get(("wanted",), read, seconds=WANTED_SECONDS)


def does(line: NodeLine | None, version: str = "") -> Markup:
    """Return what a node does or why it does not, its code in monospace."""
    if line is None:
        return said("no deployment decides for it")
    found: NodeClass = line.found
    sentence = (
        found.sentence.replace("refused it", f"refused {version}").replace("went back from it", f"went back from {version}")
        if version
        else found.sentence
    )
    if found.name == "serving":
        return said(sentence)
    if found.code and found.code in sentence:
        before, _, after = sentence.partition(found.code)
        return said(before, code(found.code), after)
    return said(sentence, " ", code(found.code)) if found.code else said(sentence)


def link_of(node: Any) -> str:
    """Return the class of a node's link; "" where it did not say."""
    return node.state.link or ""


def bytes_of(node: Any, model: str) -> str:
    """Return how much of what it fetches is there, by the node's own report; "" where it fetches nothing."""
    slot = next((one for one in node.state.slots if one.model == model), None)
    if slot is None or not slot.bytes_planned:
        return ""
    return f"{megabytes(slot.bytes_received)} of {megabytes(slot.bytes_planned)} MB"


def megabytes(number: float) -> str:
    """Return bytes as megabytes, two digits that count: the one way in which the console writes them."""
    found = number / 1e6
    if not found:
        return "0"
    return f"{found:,.0f}" if found >= 10 else f"{found:.1f}" if found >= 1 else f"{found:.2f}" if found >= 0.01 else "<0.01"


def node_link(name: str) -> str:
    """Return the address of a node's page."""
    return path("nodes", name)
