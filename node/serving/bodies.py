"""Read bodies of requests, bounded in bytes and in time before anything is made of them. Knows no model."""

import asyncio
import zlib
from typing import Final

from starlette.types import Receive

from node.core.inference.oip import BODY_BYTES_MAX
from node.core.inference.tensors import refuse_request
from schemas.errors import Code, mismatch

BODY_SECONDS_MAX: Final = 30.0  # from a request's headers to its last byte: a client that stops sending must not keep others out


class Disconnected(Exception):
    """Signal that the client went away before its request was whole."""


async def read_body(receive: Receive, bytes_max: int) -> bytes:
    """Return a request's body.

    Raises:
        Disconnected: the client went away.
        Refused: SCHEMA_TOO_LARGE, or REQUEST_INVALID when it takes too long to arrive.
    """
    try:
        async with asyncio.timeout(BODY_SECONDS_MAX):
            return await _read(receive, bytes_max)
    except TimeoutError:
        raise refuse_request(f"the body did not arrive within {BODY_SECONDS_MAX:g} seconds") from None


async def _read(receive: Receive, bytes_max: int) -> bytes:
    parts, size, more = [], 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Disconnected
        part = message.get("body", b"")
        parts.append(part)
        size += len(part)
        if size > bytes_max:
            raise mismatch(Code.SCHEMA_TOO_LARGE, "body bytes", expected=f"at most {bytes_max}", actual=f"{size} or more")
        more = message.get("more_body", False)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def decompressed(body: bytes) -> bytes:
    """Return what a gzip or deflate body holds.

    Raises:
        Refused: SCHEMA_TOO_LARGE, or REQUEST_INVALID when it is none or cut off.
    """
    inflate = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)  # 32: gzip or zlib, by its header
    try:
        unpacked = inflate.decompress(body, BODY_BYTES_MAX + 1)
    except zlib.error:
        raise refuse_request("the body is not what its Content-Encoding says") from None
    if len(unpacked) > BODY_BYTES_MAX:
        raise mismatch(Code.SCHEMA_TOO_LARGE, "body bytes decompressed", expected=f"at most {BODY_BYTES_MAX}", actual="more")
    if not inflate.eof:
        raise refuse_request("the compressed body is cut off")
    return unpacked
