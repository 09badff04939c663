"""Hold what an operation needs of a fleet: its folder, settings, database, and signed metadata."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from schemas.errors import Code, Refused

if TYPE_CHECKING:  # SQLAlchemy and TUF take a while to import, and lists of a command line do without.
    from hub.database.store import Store
    from hub.publish.block_store import BlockStore
    from hub.settings import HubSettings
    from hub.signing.tuf_repository import Repository


@dataclass(frozen=True, slots=True)
class OpenedFleet:
    """Hold a fleet that is open; the store writes in the name of an actor."""

    directory: Path
    settings: "HubSettings"
    store: "Store"
    repository: "Repository"

    @property
    def blocks(self) -> "BlockStore":
        """Return where payloads are."""
        from hub.publish.blocks import open_blocks  # noqa: PLC0415

        return open_blocks(self.directory, self.settings)

    @property
    def needs_enrolment(self) -> bool:
        """Return whether nodes that did not enrol are ignored."""
        return self.settings.enrolment == "required"

    def acting(self, actor: str) -> "OpenedFleet":
        """Return the same fleet, to be changed in the name of another actor."""
        return replace(self, store=self.store.acting(actor))


def check_model(repository: "Repository", model: str) -> None:
    """Check that the fleet has this model.

    Raises:
        Refused: it has not.
    """
    known = repository.models()
    if model not in known:
        raise Refused(Code.RELEASE_UNKNOWN, f"there is no model {model!r}; there are {', '.join(known) or 'none'}")
