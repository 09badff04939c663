"""Take releases that were carried here by hand: unpacked beside the artifacts, used as a broker's messages are, then removed."""

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fleetcast import disk_room, durable
from schemas import codec
from schemas.bundle import ModelBundle, TrustBundle
from schemas.bundle_file import Parcel, deployments_in, read_frames
from schemas.deployments import Envelope
from schemas.errors import Code, Refused, Unreachable, mismatch
from schemas.limits import PARCEL_BLOCKS_MAX, PAYLOAD_BYTES_MAX
from schemas.names import sha256

PARCELS_MAX = 16  # unpacked at once: the oldest goes
_PARTIAL = ".unpacking-"
_DEPLOYMENTS = "deployments"


@dataclass(frozen=True, slots=True)
class Unpacked:
    """Hold a parcel on this disk: what it says of itself, and the documents that are yet to be verified."""

    parcel: Parcel
    trust: TrustBundle
    model: ModelBundle
    deployments: Envelope | None = None


class Sideload:
    """Keep a folder of unpacked parcels, by release digest."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def unpack(self, path: Path, *, fleet: str, bytes_max: int | None = None) -> Parcel:
        """Check a parcel and unpack it; it is visible only when all of it is durable. `bytes_max`: of all that is unpacked together.

        Raises:
            Refused: not a parcel of this fleet, damaged, or no room for it.
            Unreachable: the file or the disk does not answer.
        """
        try:
            with path.open("rb"):
                pass  # else a folder would be made for nothing
        except OSError as error:
            raise Refused(Code.SETTINGS_INVALID, f"{path} cannot be read: {error.strerror or error}") from error
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            self._clear()
            self._check_quota(path, bytes_max)
            with self._partial() as folder:
                parcel = self._unpack_into(folder, path, fleet)
                os.sync()  # once for thousands of small files
                self._make_visible(folder, parcel)
        except OSError as error:
            if error.errno in disk_room.FULL:
                raise Refused(Code.DISK_FULL, f"no room in {self.directory} for {path}") from error
            raise Unreachable(f"{path}: {error.strerror or error}") from error
        return parcel

    def _clear(self) -> None:
        """Remove what processes that were killed have left; what another one is just writing is locked by it."""
        for left in self.directory.glob(_PARTIAL + "*"):
            with contextlib.suppress(OSError), _locked(left):
                shutil.rmtree(left, ignore_errors=True)

    @contextlib.contextmanager
    def _partial(self) -> Iterator[Path]:
        """Make a folder to unpack into, which no other process clears away."""
        while True:
            folder = Path(tempfile.mkdtemp(prefix=_PARTIAL, dir=self.directory))
            with contextlib.ExitStack() as stack:
                try:
                    stack.enter_context(_locked(folder))
                except OSError:
                    continue  # Another process has cleared it away before it was locked.
                if not folder.exists():
                    continue
                try:
                    yield folder
                finally:
                    shutil.rmtree(folder, ignore_errors=True)
                return

    def _check_quota(self, path: Path, bytes_max: int | None) -> None:
        """Refuse what would take more than releases may; whatever is in a parcel, its file is no smaller than what it unpacks to."""
        here = sum(file.stat().st_size for folder in self._folders() for file in folder.iterdir())
        size = path.stat().st_size
        if bytes_max is not None and here + size > bytes_max:
            what = f"bytes of {path}, beside {here} that were carried here before"
            raise mismatch(Code.DISK_QUOTA, what, expected=f"together at most {bytes_max} (`disk_bytes_max`)", actual=size)

    def _unpack_into(self, folder: Path, path: Path, fleet: str) -> Parcel:
        parcel: Parcel | None = None
        blocks = size_bytes = 0
        with path.open("rb") as source:
            for kind, data in read_frames(source):
                match kind:
                    case "parcel":
                        parcel = codec.decode(Parcel, data)
                        if parcel.fleet != fleet:
                            raise mismatch(Code.TRUST_MISMATCH, f"fleet of {path}", expected=fleet, actual=parcel.fleet)
                    case "trust":
                        codec.decode(TrustBundle, data)
                    case "model":
                        codec.decode(ModelBundle, data)
                    case _:
                        blocks, size_bytes = blocks + 1, size_bytes + len(data)
                        if blocks > PARCEL_BLOCKS_MAX:
                            raise mismatch(
                                Code.SCHEMA_TOO_LARGE, f"blocks in {path}", expected=f"at most {PARCEL_BLOCKS_MAX}", actual="more"
                            )
                (folder / (sha256(data).hex() if kind == "block" else kind)).write_bytes(data)
                if kind == "block" and blocks == 1 and deployments_in(data) is not None:
                    (folder / _DEPLOYMENTS).write_bytes(data)
        if parcel is None or (parcel.blocks, parcel.bytes) != (blocks, size_bytes):
            expected = f"{parcel.blocks} blocks of {parcel.bytes} bytes" if parcel else "a parcel"
            raise mismatch(Code.SCHEMA_MALFORMED, f"{path}", expected=expected, actual=f"{blocks} of {size_bytes}")
        return parcel

    def _make_visible(self, folder: Path, parcel: Parcel) -> None:
        final = self.directory / parcel.release.hex()
        shutil.rmtree(final, ignore_errors=True)
        durable.rename(folder, final)
        kept = sorted(self._folders(), key=lambda one: one.stat().st_mtime)
        for oldest in kept[:-PARCELS_MAX]:
            shutil.rmtree(oldest, ignore_errors=True)

    def releases(self) -> dict[bytes, float]:
        """Return the releases that were carried here, and when each was unpacked."""
        found: dict[bytes, float] = {}
        for folder in self._folders():
            with contextlib.suppress(OSError):
                found[bytes.fromhex(folder.name)] = folder.stat().st_mtime
        return found

    def documents(self, release: bytes) -> Unpacked:
        """Return what a parcel brought, not yet verified.

        Raises:
            Refused: it changed on disk.
        """
        folder = self.directory / release.hex()
        try:
            documents = {name: (folder / name).read_bytes() for name in ("parcel", "trust", "model")}
            statement = (folder / _DEPLOYMENTS).read_bytes() if (folder / _DEPLOYMENTS).exists() else None
        except OSError as error:
            raise Refused(Code.ARTIFACT_DIGEST, f"parcel {release.hex()[:12]}: {error.strerror}") from None
        return Unpacked(
            codec.decode(Parcel, documents["parcel"]),
            codec.decode(TrustBundle, documents["trust"]),
            codec.decode(ModelBundle, documents["model"]),
            codec.decode(Envelope, statement) if statement is not None else None,
        )

    def read(self, digest: bytes) -> bytes | None:
        """Return a payload, from whichever parcel has it; the caller verifies it."""
        for folder in self._folders():
            with contextlib.suppress(OSError), (folder / digest.hex()).open("rb") as file:
                return file.read(PAYLOAD_BYTES_MAX + 1)
        return None

    def remove(self, release: bytes) -> None:
        """Take in that the release is here, or never will be: its parcel is needed no more."""
        shutil.rmtree(self.directory / release.hex(), ignore_errors=True)

    def _folders(self) -> Iterator[Path]:
        if self.directory.is_dir():
            yield from (entry for entry in self.directory.iterdir() if len(entry.name) == 64 and not entry.name.startswith("."))


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold a folder's lock, which ends with the process.

    Raises:
        OSError: it is gone, or another process holds it.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)
