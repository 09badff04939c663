"""Define what the API answers with about bytes that were paid for."""

from hub.web.documents import Shown


class BytesShown(Shown):
    """Sum up the bytes of a day, of one class of link, release, site or node. Planned is received, reused and missing."""

    name: str
    nodes: int
    planned: int
    received: int
    reused: int
    wasted: int


class DayShown(Shown):
    """Sum up the bytes of a day, those that received most first. `is_cut`: it had more receipts than are read."""

    day: str
    by: str
    is_cut: bool
    items: list[BytesShown]


class NodeBytes(Shown):
    """Say what a release has cost one node."""

    node: str
    state: str
    code: str
    planned: int
    received: int
    reused: int
    missing: int
    wasted: int
