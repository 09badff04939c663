"""Keep the manifests of what is on this disk, so that a node without a broker knows its own models, and which variant of each it has."""

from collections.abc import Mapping
from pathlib import Path

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


class Manifests:
    """Keep manifests by release digest; verified when they are read back."""

    def __init__(self, artifacts: Artifacts, profile: Profile, *, unloadable: Mapping[str, str] | None = None) -> None:
        self._artifacts, self._profile = artifacts, profile
        self._unloadable = unloadable
        self._known: dict[bytes, Manifest] = {}

    def keep(self, release: Release) -> None:
        """Write a verified release's manifest down."""
        path = self._path(release.digest)
        if not path.exists():
            self._artifacts.make_folder(path.parent)
            durable.write(path, release.document)
        self._known[release.digest] = release.manifest

    def get(self, digest: bytes) -> Manifest:
        """Return the manifest of a release.

        Raises:
            Refused: it is gone from the disk, or was changed there.
        """
        if digest not in self._known:
            path = self._path(digest)
            data = path.read_bytes()[: MANIFEST_BYTES_MAX + 1] if path.exists() else b""
            if sha256(data) != digest:  # the digest was believed when the slot was written; the disk may have changed since
                raise Refused(Code.ARTIFACT_DIGEST, f"the manifest of release {digest.hex()[:12]} is gone from the disk or was changed")
            self._known[digest] = codec.decode(Manifest, data)
        return self._known[digest]

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
        return self._artifacts.directory / digest.hex() / "manifest.msgpack"
