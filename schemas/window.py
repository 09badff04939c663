"""What a node says of its model's inputs and outputs over an interval: noisy counts. There is no field that could hold a row or a node id.

Counts travel as differences from what the baseline expects of `rows` rows, one signed byte each; a difference that does not fit stands as
-128 there and in full (little-endian int32) behind the bytes. `rows` is itself derived from the noisy counts.
"""

from typing import Annotated

from pydantic import Field

from schemas import limits
from schemas.document import Document
from schemas.manifest import Seconds
from schemas.names import DigestPrefix, Id16


class Window(Document):
    """One model, one release, one interval; model and cohort stand in the topic."""

    schema_name = "window"
    bytes_max = limits.WINDOW_BYTES_MAX

    id: Annotated[Id16, Field(alias="i")]  # random, single use: a window delivered twice is counted once
    release: Annotated[DigestPrefix, Field(alias="r")]
    start: Annotated[Seconds, Field(alias="s")]
    seconds: Annotated[int, Field(alias="w", ge=1, le=limits.WINDOW_SECONDS_MAX)]
    rows: Annotated[int, Field(alias="n", ge=0, le=limits.WINDOW_ROWS_MAX)]
    counts: Annotated[bytes, Field(alias="c", min_length=1, max_length=limits.SIGNALS_MAX * limits.BINS_MAX * 5)]
