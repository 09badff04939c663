"""Keep payloads in an object store, S3 or one that speaks as it does, by `obstore`: content-addressed, and verified when read.

Knows no manifest and no model. Keys: `<prefix>/<fleet>/blocks/<first two hex digits>/<digest>`. Every call waits for the network, for
`TIMEOUT_SECONDS` at most, and Ctrl-C ends the wait: the hub's loop calls nothing here.
"""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import Future
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from hub.publish.awaited import awaited, begun
from schemas.errors import Code, Refused, Unreachable, mismatch
from schemas.limits import PAYLOAD_BYTES_MAX, TEXT_MAX
from schemas.names import sha256

if TYPE_CHECKING:
    from obstore.store import S3Store

TIMEOUT_SECONDS: Final = 30.0  # For one request; a payload has at most PAYLOAD_BYTES_MAX.
STALL_SECONDS: Final = 10.0  # Without an answer, or without CHUNK_BYTES more of one.
CHUNK_BYTES: Final = 4096
CONNECT_SECONDS: Final = 5.0
RETRIES_MAX: Final = 2
_RETRIES_SECONDS: Final = 15.0  # No request is tried again after this.
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_PREFIX = re.compile(r"[A-Za-z0-9!_.*'()/-]*")
_NAME = re.compile(r"[0-9a-f]{64}")
_REFUSALS: Final = {
    "PermissionDeniedError": "its credentials are not allowed to: check their policy (docs/operations.md)",
    "UnauthenticatedError": "it does not accept the credentials: check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY of this process",
}


class ObjectStore:
    """Read and add payloads under one prefix of a bucket, which any number of machines may share."""

    def __init__(self, url: str, fleet: str, *, endpoint_url: str = "") -> None:
        """Open the store of a fleet; nothing is connected yet.

        Credentials and region are taken from the environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION), as other programs
        do. `endpoint_url` is where a store is that is not Amazon's.

        Raises:
            Refused: SETTINGS_INVALID: obstore is not installed, or the URL names no bucket.
        """
        bucket, prefix = bucket_of(url)
        self.url = url
        self._keys = f"{prefix}/{fleet}/blocks".lstrip("/")
        try:
            import obstore  # noqa: PLC0415  # an extra
            from obstore import exceptions, store  # noqa: PLC0415
        except ImportError as error:
            what = f"blocks_url {url} needs obstore, which cannot be imported ({error})"
            mend = "install fleetcast with the extra `objects`, as in 'fleetcast[hub,objects]'"
            raise Refused(Code.SETTINGS_INVALID, f"{what}: {mend}") from None
        self._obstore: Any = obstore
        self._missing, self._failed = exceptions.NotFoundError, exceptions.BaseError
        where: dict[str, Any] = {"endpoint": endpoint_url} if endpoint_url else {}
        try:
            self._store: S3Store = store.S3Store(
                bucket,
                **where,
                client_options={
                    "timeout": timedelta(seconds=TIMEOUT_SECONDS + 5),  # Ours ends first, and says how far it was.
                    "connect_timeout": timedelta(seconds=CONNECT_SECONDS),
                    "allow_http": endpoint_url.startswith("http://"),
                },
                retry_config={"max_retries": RETRIES_MAX, "retry_timeout": timedelta(seconds=_RETRIES_SECONDS)},
            )
        except exceptions.BaseError as error:
            raise Refused(Code.SETTINGS_INVALID, f"blocks_url {url}: {_reason(error)}") from None

    def has(self, digest: bytes) -> bool:
        """Return whether a payload is here; `read` checks whether it is undamaged.

        Raises:
            Unreachable: the store does not answer, or lets nobody in.
        """
        return awaited(self._has(digest))

    def read(self, digest: bytes, *, stall_seconds: float | None = None) -> bytes:
        """Return a payload, verified. A store that is known to be slow may be given more than STALL_SECONDS.

        Raises:
            Refused: RELEASE_UNKNOWN, it is not here; BLOCK_DIGEST, the store has other bytes under its name.
            Unreachable: the store does not answer, is too slow, or lets nobody in.
        """
        data = awaited(self._read(digest, STALL_SECONDS if stall_seconds is None else stall_seconds))
        if (actual := sha256(data)) != digest:
            raise mismatch(Code.BLOCK_DIGEST, f"object in {self.url}", expected=digest.hex(), actual=actual.hex())
        return data

    def put(self, digest: bytes, data: bytes) -> None:
        """Store a payload, over what was there under its name. It is durable on return.

        Raises:
            Refused: the bytes are not those that the digest names.
            Unreachable: the store does not answer, or lets nobody in.
        """
        awaited(self._put(digest, data))

    def bring(self, digest: bytes, read: Callable[[], bytes | None], *, is_new: bool) -> Future[None]:
        """Begin to store a payload, and return what ends as `put` does. One that is not new is read and sent if it is missing only."""

        async def do() -> None:
            if is_new or not await self._has(digest):
                data = await asyncio.to_thread(read)
                if data is not None:
                    await self._put(digest, data)

        return begun(do())

    def digests(self) -> Iterator[bytes]:
        """Yield the digests of all payloads, in no particular order.

        Raises:
            Unreachable: the store does not answer, or lets nobody in.
        """
        yield from self._listed()

    def remove(self, digest: bytes) -> None:
        """Remove a payload, or do nothing if it is not here.

        Raises:
            Unreachable: the store does not answer, or lets nobody in.
        """

        async def do() -> None:
            async with self._answering(f"payload {digest.hex()[:16]} cannot be removed"):
                await self._obstore.delete_async(self._store, self._key(digest))

        try:
            awaited(do())
        except FileNotFoundError:
            return
        self.sizes.pop(digest, None)

    def check(self) -> None:
        """Look whether the store answers and knows the bucket.

        Raises:
            Unreachable: it does not.
        """

        async def do() -> None:
            async with self._answering("its bucket cannot be listed"), self._in_bucket():
                await anext(aiter(self._obstore.list(self._store, prefix=self._keys, chunk_size=1)), None)

        awaited(do())

    @cached_property
    def sizes(self) -> dict[bytes, int]:
        """Return the bytes of every payload, as they are listed at the first look: a request for a thousand, not for each.

        Raises:
            Unreachable: the store does not answer, or lets nobody in.
        """
        return self._listed()

    def _listed(self) -> dict[bytes, int]:
        found: dict[bytes, int] = {}

        async def do() -> None:
            pages = aiter(self._obstore.list(self._store, prefix=self._keys))
            while True:
                async with self._answering("its payloads cannot be listed"), self._in_bucket():  # Each page has its time.
                    page = await anext(pages, None)
                if page is None:
                    return
                for one in page:
                    name = one["path"].rpartition("/")[2]
                    if _NAME.fullmatch(name):
                        found[bytes.fromhex(name)] = one["size"]

        awaited(do())
        return found

    async def _has(self, digest: bytes) -> bool:
        try:
            async with self._answering(f"payload {digest.hex()[:16]} cannot be looked up"):
                await self._obstore.head_async(self._store, self._key(digest))
        except FileNotFoundError:
            return False
        return True

    async def _read(self, digest: bytes, stall_seconds: float) -> bytes:
        data, began = bytearray(), time.monotonic()
        try:
            async with self._answering(f"payload {digest.hex()[:16]} cannot be read", lambda: _too_slow(data, time.monotonic() - began)):
                found = await _soon(self._obstore.get_async(self._store, self._key(digest)), stall_seconds)
                size = found.meta["size"]
                if size <= PAYLOAD_BYTES_MAX:
                    chunks = aiter(found.stream(min_chunk_size=CHUNK_BYTES))
                    while len(data) <= PAYLOAD_BYTES_MAX and (chunk := await _soon(anext(chunks, None), stall_seconds)) is not None:
                        data += chunk
        except FileNotFoundError:
            raise Refused(Code.RELEASE_UNKNOWN, f"payload {digest.hex()} is not in {self.url}") from None
        if (most := max(size, len(data))) > PAYLOAD_BYTES_MAX:
            raise mismatch(Code.BLOCK_DIGEST, f"object in {self.url}: bytes", expected=f"at most {PAYLOAD_BYTES_MAX}", actual=most)
        return bytes(data)

    async def _put(self, digest: bytes, data: bytes) -> None:
        if (found := sha256(data)) != digest:
            raise mismatch(Code.BLOCK_DIGEST, "payload to store", expected=digest.hex(), actual=found.hex())
        what, slow = f"payload {digest.hex()[:16]} cannot be stored", f"it did not take {len(data)} bytes in {TIMEOUT_SECONDS:g} s"
        async with self._answering(what, lambda: slow), self._in_bucket():
            await self._obstore.put_async(self._store, self._key(digest), data, use_multipart=False)

    def _key(self, digest: bytes) -> str:
        name = digest.hex()
        return f"{self._keys}/{name[:2]}/{name}"

    @asynccontextmanager
    async def _answering(self, what: str, slow: Callable[[], str] = lambda: "it does not answer") -> AsyncIterator[None]:
        """Give a request its time, and turn the store's errors into ours; FileNotFoundError for what is not there."""
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                yield
        except (self._missing, FileNotFoundError):
            raise FileNotFoundError from None
        except TimeoutError:
            raise Unreachable(f"object store {self.url}: {what}: {slow()}") from None
        except (self._failed, OSError) as error:
            why = _REFUSALS.get(type(error).__name__) or _reason(error)
            raise Unreachable(f"object store {self.url}: {what}: {why}") from None

    @asynccontextmanager
    async def _in_bucket(self) -> AsyncIterator[None]:
        try:
            yield
        except (self._missing, FileNotFoundError):
            raise Unreachable(f"object store {self.url}: there is no such bucket: create it first") from None


async def _soon(answer: Awaitable[Any], seconds: float) -> Any:
    async with asyncio.timeout(seconds):
        return await answer


def _too_slow(data: bytearray, seconds: float) -> str:
    return f"it is too slow, {len(data)} bytes came in {seconds:.0f} s" if data else "it does not answer"


def bucket_of(url: str) -> tuple[str, str]:
    """Return the bucket and the prefix that a URL of an object store names.

    Raises:
        Refused: SETTINGS_INVALID, it is no such URL.
    """
    try:
        found = urlsplit(url)
        bad = found.scheme != "s3" or not _BUCKET.fullmatch(found.netloc) or found.query or found.fragment
    except ValueError:
        bad = True
    if bad or not _PREFIX.fullmatch(found.path):
        raise Refused(Code.SETTINGS_INVALID, f"blocks_url {url!r} must look like s3://bucket or s3://bucket/folder")
    return found.netloc, found.path.strip("/")


def _reason(error: BaseException) -> str:
    """Return what an error says, on one line: the server's own code, or what obstore writes before it lists the causes in Rust's words."""
    text = str(error)
    if code := re.search(r"<Code>(\w{1,64})</Code>", text):
        return "there is no such bucket: create it first" if code[1] == "NoSuchBucket" else f"it answers {code[1]}"
    if "error sending request" in text or "operation timed out" in text:
        return "it does not answer"
    return re.sub(r"\s+", " ", str(error).split("Debug source:")[0]).strip()[:TEXT_MAX]
