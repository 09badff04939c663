"""Know where the fleet's keys lie in its folder, and put a new key in the place of an old one so that a crash in between loses neither.

A new key waits beside the old one, as `targets.next.pem`, until the metadata names it; then it takes the old one's name. Its public half
waits with it, so that nobody has to open it for that.
"""

import contextlib
import os
from collections.abc import Collection
from pathlib import Path

from securesystemslib.signer import Key, Signer

from fleetcast import durable
from hub.signing import key_references
from hub.signing.keys import PEM, load_signer, public_key
from schemas.errors import Code, Refused

ONLINE = ("snapshot", "timestamp", "rollouts")  # Roles whose keys the hub opens.
SUFFIXES = (PEM, key_references.SUFFIX)
NEXT = ".next"
PUBLIC = ".pub"


def mend_of(role: str) -> str:
    """Return what mends a role that was given another key than the hub has; empty where its key is a person's, who signs with another."""
    if role not in ONLINE:
        return ""
    return f"; copy online/{role}.pem from the machine where the key was replaced to the folder of the hub that leads, which takes it up"


def stem_of(directory: Path, role: str) -> Path:
    """Return the path of a role's key in a fleet's folder, without its ending. Each root key is a role of its own here: `root-1`."""
    return directory / ("online" if role in ONLINE else "keys") / role


def present(stem: Path) -> Path | None:
    """Return the file of a key, if it is here."""
    return next((path for suffix in SUFFIXES if (path := stem.with_name(stem.name + suffix)).exists()), None)


def waiting(stem: Path) -> Path | None:
    """Return the file of a key that is to take this one's place, if one waits."""
    return present(stem.with_name(stem.name + NEXT))


def public_of_waiting(stem: Path) -> Key | None:
    """Return the public half of the key that waits; None if none waits, or if only opening it could show that."""
    found = waiting(stem)
    path = found if found is not None and found.suffix == key_references.SUFFIX else stem.with_name(stem.name + NEXT + PUBLIC)
    return public_key(path) if found is not None and path.exists() else None


def root_stems(directory: Path) -> list[Path]:
    """Return the places of the root keys that are here or wait here."""
    found = {name for suffix in SUFFIXES for path in (directory / "keys").glob(f"root-*{suffix}") if (name := path.name[: -len(suffix)])}
    stems = {name.removesuffix(NEXT) for name in found}
    return [directory / "keys" / name for name in sorted(stems, key=lambda one: (len(one), one))]


def clear_parts(directory: Path) -> None:
    """Remove the parts of key files that a crash has left in a fleet's folder, private keys among them; none that is being written."""
    for name in ("keys", "online", "tls", "broker/tls"):
        durable.clear_parts(directory / name)


def promote(stem: Path) -> None:
    """Put the key that waits in the old one's place, if one waits; two processes may do so at once."""
    found = waiting(stem)
    if found is None:
        return
    target = stem.with_name(stem.name + found.suffix)
    old = present(stem)
    with contextlib.suppress(FileNotFoundError):  # The other process was faster.
        if old is not None and os.geteuid() == 0:
            os.chown(found, old.stat().st_uid, old.stat().st_gid)  # A hub that runs as a user of its own is to read it.
        for suffix in SUFFIXES:
            if suffix != found.suffix:
                stem.with_name(stem.name + suffix).unlink(missing_ok=True)
        durable.rename(found, target)
        stem.with_name(stem.name + NEXT + PUBLIC).unlink(missing_ok=True)


def discard_orphan(stem: Path) -> None:
    """Drop the public half of a key that waited and has taken its place: the process that put it there was cut off in between."""
    if waiting(stem) is None:
        stem.with_name(stem.name + NEXT + PUBLIC).unlink(missing_ok=True)


def discard_waiting(stem: Path) -> None:
    """Drop a key that waits and that another one is to take the place of; the metadata does not name it."""
    for suffix in (*SUFFIXES, PUBLIC):
        stem.with_name(stem.name + NEXT + suffix).unlink(missing_ok=True)


def signer_of(stem: Path, keyids: Collection[str], passphrase: bytes) -> Signer:
    """Return the signer that a role names now: the key in its place, or the one that waits, which then takes that place.

    Raises:
        Refused: KEY_NOT_AUTHORISED: neither is one of these keys; KEY_UNREADABLE and KEY_PASSPHRASE as `load_signer`.
    """
    found: list[str] = []
    failed: Refused | None = None
    for path in (present(stem), waiting(stem)):
        if path is None:
            continue
        try:
            signer = load_signer(path, passphrase)
        except Refused as refusal:
            failed = failed or refusal
            continue
        if signer.public_key.keyid not in keyids:
            found.append(f"{path.name} is {short(signer.public_key)}")
            continue
        if path.stem.endswith(NEXT):
            promote(stem)
        return signer
    if failed is not None:
        raise failed
    wanted = ", ".join(one[:12] for one in keyids) or "nobody's"
    have = ", ".join(found) or f"there is no key at {stem}{PEM}"
    raise Refused(Code.KEY_NOT_AUTHORISED, f"{stem.name} is signed by key {wanted}; {have}")


def short(key: Key) -> str:
    """Return the part of a key's id that people compare."""
    return key.keyid[:12]
