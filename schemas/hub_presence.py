"""Define what a hub retains about itself, signed, so that another with a copy of its keys notices it."""

from typing import Annotated

from pydantic import Field

from schemas.document import Document
from schemas.names import Digest
from schemas.quantities import Count, Seconds

HOST_CHARACTERS_MAX = 255


class HubPresence(Document):
    """Say that a hub runs; `beat` grows for as long as it does."""

    schema_name = "hub-presence"
    bytes_max = 4096

    run: Annotated[bytes, Field(min_length=16, max_length=16)]  # Random; of one life of one process.
    place: Digest  # Digest of where the fleet's folder is, or its shared database: a hub that starts again there is no other hub.
    host: Annotated[str, Field(min_length=1, max_length=HOST_CHARACTERS_MAX)]
    pid: Count
    since: Seconds
    beat: Count
    stands_down: bool = False  # It has noticed another hub, and signs nothing.
