"""Define what the API answers with where a release or a model is removed."""

from hub.web.documents import Shown


class RemovalShown(Shown):
    """Say what removing it would do. `needed`: it may be removed by force alone, and why."""

    model: str
    version: str | None
    releases: int
    nodes_serving: int
    is_left: bool
    needed: str | None
    question: str


class Removed(Shown):
    """Say what was removed."""

    model: str
    version: str | None
    releases: int
    freed_bytes: int
    nodes_serving: int
    announced: bool
