"""Take in releases that were signed elsewhere: the hub checks and stores them, and holds no key of a team.

A publication is a manifest and the payloads that it names. They wait in a folder of their own, each durable once it is acknowledged, and
become part of the fleet together: payloads first, then the manifest, then the team's signature. A hub that is killed in between leaves
nothing that a node could see, and the publisher goes on where it was.
"""

import hashlib
import os
import re
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from fleetcast import disk_room, durable
from fleetcast.counted import counted
from hub.core.publish.signature_compatibility import Signature, check_published, predecessor
from hub.operations.opened_fleet import OpenedFleet, check_model
from hub.publish.block_store import BlockStore
from schemas import codec
from schemas.errors import Code, FleetcastError, Refused, mismatch
from schemas.limits import MANIFEST_BYTES_MAX, MIB
from schemas.manifest import Block, Manifest, blocks_of
from schemas.names import sha256

FOLDER: Final = "uploads"
OPEN_MAX: Final = 16  # Publications that wait for payloads at one time.
IDLE_SECONDS_MAX: Final = 24 * 3600  # A publication to which nothing came for this long makes room for others.
ROOM_BYTES: Final = 256 * MIB  # What is left free for the hub itself.
MISSING_SHOWN_MAX: Final = 1000
_ID: Final = re.compile("[0-9a-f]{32}")
_MANIFEST: Final = "manifest"


@dataclass(frozen=True, slots=True)
class Publication:
    """Hold a release that is being published, and what of it is still to come."""

    id: str
    model: str
    version: str
    digest: bytes
    document: bytes
    is_published: bool
    missing: Mapping[bytes, int]  # Bytes of each payload by digest; more may follow when the block lists are here.
    received_bytes: int = 0


class Publications:
    """Keep the publications of a fleet's folder. Any thread may ask; a payload that comes twice is stored once."""

    def __init__(self, directory: Path, *, now: Callable[[], float] = time.time) -> None:
        self._folder, self._now = directory / FOLDER, now
        self._needed: dict[str, tuple[bool, Mapping[bytes, int]]] = {}

    def begin(self, fleet: OpenedFleet, model: str, version: str, document: bytes) -> Publication:
        """Begin a publication, or go on with it: the same manifest is the same publication.

        Raises:
            Refused: the manifest is wrong, the version has other content, too many are open, or the disk has no room.
        """
        if len(document) > MANIFEST_BYTES_MAX:
            raise Refused(Code.SCHEMA_TOO_LARGE, f"a manifest of {len(document)} bytes, at most {MANIFEST_BYTES_MAX} are allowed")
        manifest = codec.decode(Manifest, document)
        if (manifest.model, manifest.version) != (model, version):
            raise mismatch(Code.REQUEST_INVALID, "manifest", expected=f"{model}@{version}", actual=f"{manifest.model}@{manifest.version}")
        check_model(fleet.repository, model)
        number = sha256(document).hex()[:32]
        known = fleet.repository.listed().get((model, version))
        if known is not None:
            if known != sha256(document):
                raise Refused(Code.RELEASE_CONFLICT, f"{model}@{version} is published already, with other content")
            return Publication(number, model, version, known, document, is_published=True, missing={})
        place = self._folder / number
        if not (place / _MANIFEST).exists():
            self._make_room(fleet, manifest)
            with _room(self._folder):
                durable.make_folder(place, parents=True)
                durable.write(place / _MANIFEST, document)
        return self.get(fleet, number)

    def get(self, fleet: OpenedFleet, number: str) -> Publication:
        """Return a publication.

        Raises:
            Refused: REQUEST_UNKNOWN: there is none, or nothing came to it for a day.
        """
        document = self._document(fleet, number)
        manifest, digest = codec.decode(Manifest, document), sha256(document)
        if fleet.repository.listed().get((manifest.model, manifest.version)) == digest:
            return Publication(number, manifest.model, manifest.version, digest, document, is_published=True, missing={})
        here = self._received(number)
        needed = self._needed_of(fleet, number, manifest)
        missing = {one: size for one, size in needed.items() if one not in here and not fleet.blocks.has(one)}
        return Publication(number, manifest.model, manifest.version, digest, document, False, missing, sum(here.values()))

    def put(self, fleet: OpenedFleet, number: str, digest: bytes, data: bytes) -> None:
        """Store a payload of a publication: it is durable on return.

        Raises:
            Refused: the manifest does not name it, it is not what the digest says, or the disk has no room.
        """
        manifest = codec.decode(Manifest, self._document(fleet, number))
        size = self._needed_of(fleet, number, manifest).get(digest)
        if size is None:
            raise Refused(Code.REQUEST_UNKNOWN, f"the manifest of {manifest.model}@{manifest.version} names no payload {digest.hex()}")
        if len(data) != size:
            raise mismatch(Code.BLOCK_DIGEST, f"bytes of payload {digest.hex()}", expected=size, actual=len(data))
        if (found := sha256(data)) != digest:
            raise mismatch(Code.BLOCK_DIGEST, "payload", expected=digest.hex(), actual=found.hex())
        if (free := shutil.disk_usage(self._folder).free) < ROOM_BYTES:
            raise Refused(Code.DISK_FULL, f"the hub has {free} bytes free, and {ROOM_BYTES} stay free: what was sent is kept for a day")
        try:
            with _room(self._folder):
                durable.write(self._folder / number / digest.hex(), data)
        except FileNotFoundError:  # It was published or dropped meanwhile.
            raise Refused(Code.REQUEST_UNKNOWN, f"publication {number} has ended meanwhile") from None

    def finish(self, fleet: OpenedFleet, number: str, role: bytes, *, breaking: bool) -> Publication:
        """Make a release part of the fleet, by the role that its team has signed. To repeat it does nothing.

        Raises:
            Refused: payloads are missing, the release breaks programs, or the role is not what its team may sign.
        """
        found, repository = self.get(fleet, number), fleet.repository
        now = datetime.now(UTC)
        if found.is_published:
            return found
        if found.missing:
            reason = f"payloads of {found.model}@{found.version} are missing: first send {counted(len(found.missing), 'payload')}"
            raise Refused(Code.REQUEST_INVALID, reason)
        manifest = codec.decode(Manifest, found.document)
        if not breaking and (before := predecessor(found.version, repository.releases(found.model))) is not None:
            check_published(Signature.of(manifest), Signature.of(codec.decode(Manifest, repository.manifest(found.model, before))))
        repository.add_signed_release(found.model, found.version, found.document, role, now=now, stores=False)
        blocks = fleet.blocks
        with blocks.adding():
            with blocks.batch() as batch:
                for digest in self._received(number):
                    batch.put(digest, (self._folder / number / digest.hex()).read_bytes())
            _check_files(manifest, blocks)
            repository.add_signed_release(found.model, found.version, found.document, role, now=now)
        with suppress(FleetcastError):  # The release is signed and will be announced all the same.
            fleet.store.add_event(
                "release",
                f"{found.model}@{found.version} was published",
                {"model": found.model, "version": found.version, "before": None, "after": {"releases": [found.version]}},
            )
        self._drop(number)
        return Publication(number, found.model, found.version, found.digest, found.document, is_published=True, missing={})

    def abandon(self, fleet: OpenedFleet, number: str) -> None:
        """Drop a publication with what has come of it.

        Raises:
            Refused: REQUEST_UNKNOWN.
        """
        self._document(fleet, number)
        self._drop(number)

    def _document(self, fleet: OpenedFleet, number: str) -> bytes:
        """Return the manifest of a publication that is open, or of a release that was one."""
        if _ID.fullmatch(number):
            with suppress(FileNotFoundError):
                return (self._folder / number / _MANIFEST).read_bytes()
            for name, digest in fleet.repository.listed().items():
                if digest.hex().startswith(number):
                    return fleet.repository.manifest(*name)
        raise Refused(Code.REQUEST_UNKNOWN, f"there is no publication {number[:64]!r}; after a day without a payload it is dropped")

    def _received(self, number: str) -> dict[bytes, int]:
        try:
            entries = list(os.scandir(self._folder / number))
        except FileNotFoundError:
            return {}
        return {bytes.fromhex(one.name): one.stat().st_size for one in entries if re.fullmatch("[0-9a-f]{64}", one.name)}

    def _needed_of(self, fleet: OpenedFleet, number: str, manifest: Manifest) -> Mapping[bytes, int]:
        """Return the payloads that a release needs, with their sizes, as far as its block lists are here."""
        is_whole, found = self._needed.get(number, (False, {}))
        if not is_whole:
            is_whole, found = needed(manifest, lambda part: self._list(fleet.blocks, number, part.digest))
            if len(self._needed) > OPEN_MAX:
                self._needed.clear()
            self._needed[number] = is_whole, found
        return found

    def _list(self, blocks: BlockStore, number: str, digest: bytes) -> bytes:
        with suppress(FileNotFoundError):
            return (self._folder / number / digest.hex()).read_bytes()
        return blocks.read(digest)

    def _make_room(self, fleet: OpenedFleet, manifest: Manifest) -> None:
        """Drop what nobody goes on with, and check that there is room for one more."""
        self._folder.mkdir(exist_ok=True)
        ages = {place.name: self._now() - place.stat().st_mtime for place in self._folder.iterdir() if _ID.fullmatch(place.name)}
        for number in [name for name, age in ages.items() if age > IDLE_SECONDS_MAX]:
            self._drop(number)
            del ages[number]
        if len(ages) >= OPEN_MAX:
            raise Refused(Code.REQUEST_CROWDED, f"{len(ages)} publications are open, and no more are allowed: finish or abandon one")
        files = {file.digest: file.bytes for variant in manifest.variants for file in manifest.files_of(variant.name)}
        wanted, free = sum(files.values()), shutil.disk_usage(fleet.directory).free
        if free < wanted + ROOM_BYTES:
            raise Refused(Code.DISK_FULL, f"the hub has {free} bytes free, and the release's files have {wanted}; {ROOM_BYTES} stay free")

    def _drop(self, number: str) -> None:
        place = self._folder / number
        with suppress(FileNotFoundError):
            (place / _MANIFEST).unlink()
        shutil.rmtree(place, ignore_errors=True)
        self._needed.pop(number, None)


def needed(manifest: Manifest, read: Callable[[Block], bytes]) -> tuple[bool, dict[bytes, int]]:
    """Return the payloads of a release with their sizes, and whether all block lists could be read."""
    found, is_whole = dict[bytes, int](), True
    for file in {file.digest: file for variant in manifest.variants for file in manifest.files_of(variant.name)}.values():
        for part in file.index:
            found.update({payload.digest: payload.bytes for payload in part.choices})
        try:
            blocks = blocks_of(file, read)
        except Refused as refused:
            if refused.code != Code.RELEASE_UNKNOWN:
                raise
            is_whole = False
            continue
        for block in blocks:
            found.update({payload.digest: payload.bytes for payload in block.choices})
    return is_whole, found


def _check_files(manifest: Manifest, blocks: BlockStore) -> None:
    """Check that the payloads are those of the files that the manifest names.

    Raises:
        Refused: ARTIFACT_DIGEST; BLOCK_DIGEST where the disk has changed a payload.
    """
    for file in {file.digest: file for variant in manifest.variants for file in manifest.files_of(variant.name)}.values():
        hasher, size = hashlib.sha256(), 0
        for block in blocks_of(file, lambda part: blocks.read(part.digest)):
            data = blocks.read(block.digest)
            hasher.update(data)
            size += len(data)
        if (size, hasher.digest()) != (file.bytes, file.digest):
            expected, actual = f"{file.bytes} bytes, {file.digest.hex()}", f"{size} bytes, {hasher.hexdigest()}"
            raise mismatch(Code.ARTIFACT_DIGEST, f"file {file.path} of the manifest", expected=expected, actual=actual)


def _room(directory: Path) -> AbstractContextManager[None]:
    return disk_room.refusing(f"no room for payloads in {directory}")
