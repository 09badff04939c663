"""List what is in a node's data folder, looked at beside the agent: releases, their variants and sizes. Writes nothing."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from schemas import codec
from schemas.errors import Refused
from schemas.limits import MANIFEST_BYTES_MAX
from schemas.manifest import Manifest, Variant
from schemas.names import sha256

OTHERS_MAY = 0o007  # a group is given to whom it is given


@dataclass(frozen=True, slots=True)
class OnDisk:
    """Hold a release's folder; without a manifest that has its digest, nothing else is known of it."""

    digest: bytes
    manifest: Manifest | None
    variants: tuple[Variant, ...]  # Those that have files here.
    bytes: int


def releases(data: Path) -> list[OnDisk]:
    """Return every release of which something is on disk."""
    folder = data / "artifacts"
    names = sorted(entry.name for entry in folder.iterdir() if len(entry.name) == 64) if folder.is_dir() else []
    return [_release(folder / name, bytes.fromhex(name)) for name in names]


def keys_open_to_others(paths: list[Path]) -> list[str]:
    """Return those of these private keys that somebody else on the machine may read."""
    found = []
    for path in paths:
        with contextlib.suppress(OSError):
            if path.stat().st_mode & OTHERS_MAY:
                found.append(str(path))
    return found


def _release(folder: Path, digest: bytes) -> OnDisk:
    manifest = manifest_at(folder / "manifest.msgpack", digest)
    variants = tuple(one for one in manifest.variants if (folder / one.name).is_dir()) if manifest else ()
    return OnDisk(digest, manifest, variants, sum(_sizes(folder)))


def _sizes(folder: Path) -> Iterator[int]:
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):  # removed since
            if path.is_file():
                yield path.stat().st_size


def manifest_at(path: Path, digest: bytes) -> Manifest | None:
    """Return the manifest in a file; None where there is none, or another."""
    try:
        with path.open("rb") as file:
            data = file.read(MANIFEST_BYTES_MAX + 1)
        return codec.decode(Manifest, data) if sha256(data) == digest else None
    except (OSError, Refused):
        return None
