"""Write several buffers at once on the socket of an asyncio transport, copied nowhere but into the socket."""

import asyncio
import os
from collections.abc import Sequence
from typing import Final

from node.core.inference.tensors import Buffer
from schemas.limits import KIB

JOINED_BYTES_MAX: Final = 16 * KIB  # Copying less is quicker than telling the kernel where the parts are.
BUFFERS_MAX: Final = 512  # at once; Linux takes 1024 (IOV_MAX)


def write_gathered(transport: asyncio.WriteTransport, buffers: Sequence[Buffer]) -> None:
    """Write all of it: at once what the socket takes, the rest as the transport writes anything.

    It is no `writelines`, which copies before Python 3.12, and on 3.12.0 to 3.12.8, 3.13.0 and 3.13.1 never holds up who writes to a client
    that does not read (CVE-2024-12254).
    """
    rest = unsent(transport, buffers)
    if rest:
        transport.write(rest[0] if len(rest) == 1 else b"".join(rest))


def unsent(transport: asyncio.WriteTransport, buffers: Sequence[Buffer]) -> list[Buffer]:
    """Return what the socket does not take now: all of little, which one `write` sends as well, and where other bytes wait already."""
    size = sum(len(buffer) for buffer in buffers)
    if size <= JOINED_BYTES_MAX or len(buffers) > BUFFERS_MAX or transport.is_closing() or transport.get_write_buffer_size():
        return list(buffers)
    try:
        sent = os.writev(transport.get_extra_info("socket").fileno(), buffers)
    except OSError:  # It takes nothing now, or no more: the transport finds out which.
        return list(buffers)
    rest: list[Buffer] = []
    for buffer in buffers:
        if sent < len(buffer):
            rest.append(memoryview(buffer)[sent:] if sent > 0 else buffer)
        sent = max(0, sent - len(buffer))
    return rest
