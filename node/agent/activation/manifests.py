"""Keep the manifests of what is on this disk, so that a node without a broker knows its own models, and which variant of each it has."""

import contextlib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import structlog

from fleetcast import durable
from node.storage.artifacts import Artifacts
from node.trust.tuf_client import Release
from schemas import codec
from schemas.errors import Code, Refused
from schemas.limits import MANIFEST_BYTES_MAX
from schemas.manifest import Manifest, Variant
from schemas.names import sha256
from schemas.state import Profile
from schemas.variant_choice import choose

log = structlog.get_logger()

MANIFEST = "manifest.msgpack"


class Manifests:
    """Keep manifests by release digest; verified when they are read back."""

    def __init__(self, artifacts: Artifacts, profile: Profile, *, unloadable: Mapping[str, str] | None = None) -> None:
        self._artifacts, self._profile = artifacts, profile
        self._unloadable = unloadable
        self._known: dict[bytes, Manifest] = {}

    def put_profile(self, profile: Profile) -> None:
        """Choose builds by another description of this device from now on; what was fetched stays."""
        self._profile = profile

    def keep(self, release: Release) -> None:
        """Write a verified release's manifest down."""
        path = self._path(release.digest)
        if not path.exists() or self.is_damaged(release.digest):
            self._artifacts.make_folder(path.parent)
            self._artifacts.drop_unusable(f"{release.digest.hex()}/{MANIFEST}")
            durable.write(path, release.document)
        self._known[release.digest] = release.manifest

    def get(self, digest: bytes) -> Manifest:
        """Return the manifest of a release.

        Raises:
            Refused: DISK_DAMAGED: it is gone from the disk, or was changed there.
        """
        if digest not in self._known:
            data = self._read(digest)
            if sha256(data) != digest:  # the digest was believed when the slot was written; the disk may have changed since
                path = self._path(digest)
                raise Refused(Code.DISK_DAMAGED, f"the manifest {path} is gone, cannot be read or was changed; the hub sends it again")
            self._known[digest] = codec.decode(Manifest, data)
        return self._known[digest]

    def is_damaged(self, digest: bytes) -> bool:
        """Return whether the file of a manifest that was not read yet is not what it was."""
        return digest not in self._known and sha256(self._read(digest)) != digest

    def repaired(self, releases: Sequence[Release], *, of: Collection[bytes]) -> list[Release]:
        """Write the damaged ones `of` these releases down anew, as far as they are among `releases`, and return those."""
        found = [one for one in releases if one.digest in of and self.is_damaged(one.digest)]
        for release in found:
            self.keep(release)
            log.info("manifest.repaired", model=release.manifest.model, version=release.manifest.version)
        return found

    def drop_unusable(self, digest: bytes) -> None:
        """Remove files of the release that cannot be opened to read and write, so that they can be fetched anew."""
        with contextlib.suppress(Refused):
            for file in self.get(digest).files_of(variant := self.variant_here(digest).name):
                self._artifacts.drop_unusable(self._artifacts.relative(digest, variant, file))

    def _read(self, digest: bytes) -> bytes:
        try:
            with self._path(digest).open("rb") as file:
                return file.read(MANIFEST_BYTES_MAX + 1)
        except OSError:
            return b""

    def forget(self, digest: bytes) -> None:
        """Take in that the release is gone from the disk."""
        self._known.pop(digest, None)

    def wanted_variant(self, digest: bytes) -> Variant:
        """Return the build that suits this device.

        Raises:
            Refused: none does, or the manifest is gone.
        """
        return choose(self.get(digest), self._profile, unloadable=self._unloadable)

    def variant_here(self, digest: bytes) -> Variant:
        """Return the build that was fetched: what suits this device may have changed since, by a label or a provider.

        Raises:
            Refused: as `wanted_variant`, where nothing was fetched.
        """
        manifest = self.get(digest)
        whole = [variant for variant in manifest.variants if self._is_here(digest, manifest, variant)]
        if len(whole) == 1:
            return whole[0]
        chosen = choose(manifest, self._profile, unloadable=self._unloadable)
        return chosen if chosen in whole or not whole else whole[0]

    def _is_here(self, digest: bytes, manifest: Manifest, variant: Variant) -> bool:
        files = manifest.files_of(variant.name)
        return all(self._artifacts.size(self._artifacts.relative(digest, variant.name, file)) == file.bytes for file in files)

    def _path(self, digest: bytes) -> Path:
        return self._artifacts.directory / digest.hex() / MANIFEST
