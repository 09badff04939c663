"""Keep a copy of each file of a repository, with its digest, so that a byte that flips on the disk is found and mended when it is read."""

import contextlib
import json
from pathlib import Path

import structlog
from tuf.api.serialization import DeserializationError

from fleetcast import durable
from hub.signing.parsed_metadata import parsed
from schemas.errors import Code, Refused
from schemas.names import sha256

log = structlog.get_logger()

FOLDER = "copies"
DIGEST_BYTES = 32
JSON = ".json"
MEND = "there is no good copy of it: restore it from a backup of the fleet's folder, and check the disk"


class KeptCopies:
    """Read and write the files below a folder, each with a copy in `copies/`. The caller holds the folder's lock."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def write(self, path: Path, data: bytes) -> None:
        """Write a file durably: its copy first, so that a crash in between is taken for a file that is behind, and mended."""
        self._keep(path, data)
        durable.make_folder(path.parent, parents=True)
        durable.write(path, data)

    def read(self, path: Path) -> bytes:
        """Return what was written; a damaged or missing file is mended from its copy.

        Raises:
            Refused: METADATA_DAMAGED, naming the file, where there is no good copy of it.
        """
        try:
            data, why = path.read_bytes(), ""
        except OSError as error:
            data, why = None, error.strerror or str(error)
        kept = self._kept(path)
        if kept is not None and kept != data:
            log.error("metadata.mended", file=str(path), reason=why or "it was changed on the disk")
            durable.write(path, kept)
            return kept
        if data is None:
            raise Refused(Code.METADATA_DAMAGED, f"{path}: {why}; {MEND}")
        if kept is None:
            if path.suffix == JSON:
                _check(path, data)
            with contextlib.suppress(OSError):  # An earlier version wrote it, or the copy was damaged.
                self._keep(path, data)
        return data

    def remove(self, path: Path) -> None:
        """Remove a file and its copy."""
        path.unlink(missing_ok=True)
        self._copy(path).unlink(missing_ok=True)

    def _copy(self, path: Path) -> Path:
        return self._directory / FOLDER / path.relative_to(self._directory)

    def _keep(self, path: Path, data: bytes) -> None:
        copy = self._copy(path)
        durable.make_folder(copy.parent, parents=True)
        durable.write(copy, sha256(data) + data)

    def _kept(self, path: Path) -> bytes | None:
        try:
            found = self._copy(path).read_bytes()
        except OSError:
            return None
        digest, data = found[:DIGEST_BYTES], found[DIGEST_BYTES:]
        return data if sha256(data) == digest else None


def _check(path: Path, data: bytes) -> None:
    try:
        if path.stem == "current":
            json.loads(data)
        else:
            parsed(data)
    except (ValueError, DeserializationError) as error:
        raise Refused(Code.METADATA_DAMAGED, f"{path} is damaged ({error}); {MEND}") from None
