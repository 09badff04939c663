"""Find, make and open the keys that the `fleetcast keys` commands sign with, each with a passphrase of its own where it has one."""

import socket
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click
from securesystemslib.signer import Key

from fleetcast import durable
from hub.cli.errors import Ended, Exit
from hub.cli.key_values import read_pairs
from hub.cli.options import Lines, hub_runs, open_store, passphrase
from hub.core.roles.staffing import STANDBY
from hub.settings import load
from hub.signing import key_references
from hub.signing.key_places import (
    NEXT,
    ONLINE,
    PUBLIC,
    clear_parts,
    discard_orphan,
    discard_waiting,
    present,
    promote,
    public_of_waiting,
    root_stems,
    stem_of,
    waiting,
)
from hub.signing.keys import PEM, create_key, load_signer, public_key, public_pem
from schemas.bundle import role_name
from schemas.errors import Code, FleetcastError, Refused

if TYPE_CHECKING:
    from hub.signing.key_offers import Offer
    from hub.signing.tuf_repository import Repository

ANNOUNCED_SECONDS = 15.0  # How long a running hub may take to sign with new keys.
LOOK_SECONDS = 0.2

key_passphrases_option = click.option(
    "--key-passphrase-file",
    "key_passphrases",
    multiple=True,
    metavar="NAME=FILE",
    help="File with the passphrase or PIN of one key, such as targets=FILE. The default is --passphrase-file. Repeatable.",
)
key_files_option = click.option(
    "--key",
    "key_files",
    multiple=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="Signing key that is not in the fleet's folder, such as /media/usb/root-1.pem. Repeatable.",
)


class ToCopy(Lines):
    """Hold what is to be copied to other machines, and whether a hub leads on one of them."""

    def __init__(self, lines: Iterable[str], *, leads_elsewhere: bool = False) -> None:
        super().__init__(lines)
        self.leads_elsewhere = leads_elsewhere


class Passphrases:
    """Give each key its passphrase; the common one is asked for once, and only when it is needed."""

    def __init__(self, common: Path | None, named: Sequence[str] = ()) -> None:
        self._common, self._asked = common, b""
        self._named = {name: Path(path) for name, path in read_pairs("--key-passphrase-file", named).items()}

    def of(self, name: str) -> bytes:
        """Return a key's passphrase.

        Raises:
            Refused: its file cannot be read, or there is nobody to ask.
        """
        if name in self._named:
            return passphrase(self._named[name])
        self._asked = self._asked or passphrase(self._common)
        return self._asked


def new_key(stem: Path, wanted: str | None, passphrases: Passphrases) -> Key:
    """Return the public half of the key that is to take another's place: one that waits already, one named elsewhere, or a new one.

    `wanted` is a URI, or the path of a public key whose private half is kept elsewhere.

    Raises:
        Refused: the key that waits cannot be opened, or the one that is named cannot be read.
    """
    name = stem.name
    if wanted is not None:
        discard_waiting(stem)
    if wanted is not None and not key_references.is_uri(wanted):
        return public_key(Path(wanted))
    found = waiting(stem)
    target = stem.with_name(name + NEXT)
    if found is not None and wanted is None:
        known = public_of_waiting(stem) or load_signer(found, passphrases.of(name)).public_key
        durable.write(target.with_name(target.name + PUBLIC), public_pem(known))
        return known
    if wanted is not None:
        return name_remote_key(target, wanted, None, passphrases.of(name))
    _check_opens(stem, passphrases)
    # A public half without a key is left of a rotation that was cut off at its end: beside the new key it would be taken for this one's.
    discard_waiting(stem)
    durable.sync(stem.parent)
    create_key(target.with_name(target.name + PEM), passphrases.of(name))
    made = load_signer(target.with_name(target.name + PEM), passphrases.of(name)).public_key
    durable.write(target.with_name(target.name + PUBLIC), public_pem(made))
    return made


def name_remote_key(stem: Path, uri: str, public: Path | None, pin: bytes) -> Key:
    """Write the file that names a key on a token or in a key service, after it has signed once.

    Raises:
        Refused: it cannot be reached, or does not open.
    """
    known = public_key(public) if public is not None else key_references.public_half(uri, lambda: pin)
    path, data = stem.with_name(stem.name + key_references.SUFFIX), f"{uri}\n".encode() + public_pem(known)
    key_references.open_key(path, data, pin)
    durable.write(path, data, mode=0o600)
    return known


def _check_opens(stem: Path, passphrases: Passphrases) -> None:
    """Check that the hub will be able to open a key that is encrypted like this: it opens all its keys with one passphrase.

    Raises:
        Refused: KEY_PASSPHRASE: it does not open the present key.
    """
    old = present(stem)
    if stem.name not in ONLINE or old is None:
        return
    try:
        load_signer(old, passphrases.of(stem.name))
    except Refused as refusal:
        if refusal.code == Code.KEY_PASSPHRASE:
            reason = f"{refusal.reason}; the hub opens its keys with one passphrase, so the new key must have the one that opens {old}"
            raise Refused(Code.KEY_PASSPHRASE, reason) from None


def sign_with_what_is_here(directory: Path, offer: "Offer", key_files: Sequence[Path], passphrases: Passphrases) -> list[str]:
    """Sign an offer with the keys in the fleet's folder and those that were given, and return why some of them did not sign."""
    failed: list[str] = []
    for name, path in _candidates(directory, offer, key_files):
        if not offer.missing():
            break
        try:
            signer = load_signer(path, passphrases.of(name))
        except Refused as refusal:
            failed.append(refusal.reason)
            continue
        with suppress(Refused):  # It has nothing to sign here.
            offer.sign(signer)
    return failed


def _candidates(directory: Path, offer: "Offer", key_files: Sequence[Path]) -> Iterable[tuple[str, Path]]:
    stems = [*root_stems(directory)] if offer.root is not None else []
    stems += [stem_of(directory, "targets")] if offer.targets is not None else []
    yield from ((path.name.partition(".")[0], path) for path in key_files)
    for stem in stems:
        yield from ((stem.name, path) for path in (waiting(stem), present(stem)) if path is not None)


def promote_named(directory: Path, repository: "Repository") -> list[str]:
    """Put each key that waits, and that the metadata names now, in the old one's place; return their roles. Drop what crashes have left."""
    clear_parts(directory)
    named: dict[str, list[str]] = {role: repository.keyids(role) for role in (*ONLINE, "targets", "root")}
    named["team"] = [keyid for model in repository.models() for keyid in repository.keyids(role_name(model))]
    stems = [*root_stems(directory), *(stem_of(directory, role) for role in (*ONLINE, "targets", "team"))]
    done = []
    for stem in stems:
        key = public_of_waiting(stem)
        if key is not None and key.keyid in named["root" if stem.name.startswith("root-") else stem.name]:
            promote(stem)
            done.append(stem.name)
        discard_orphan(stem)
    return done


def online_keys(repository: "Repository") -> dict[str, list[str]]:
    """Return which keys sign each of the roles that the hub signs."""
    return {role: repository.keyids(role) for role in ONLINE}


def note(directory: Path, text: str, **body: object) -> None:
    """Add an act to the fleet's history, with its actor."""
    try:
        store = open_store(directory)
        store.add_event("key", text, body)
        store.close()
    except FleetcastError as error:  # It is signed and in force all the same.
        click.echo(f"warning: it is done, but `fleetcast history` will not show it: {error}", err=True)


def announced(directory: Path, repository: "Repository", offer: "Offer", *, online: Sequence[str] = ()) -> dict[str, object]:
    """Return whether a running hub has vouched for the new metadata, which is waited for a while, and which hubs lack keys.

    `online` are the roles of the hub that got another key.
    """
    to_copy = _lacking(directory, online) if online else ToCopy([])
    found: dict[str, object] = {"announced": _is_announced(directory, repository, offer)}
    return {**found, "copy": to_copy} if to_copy else found


def check_copied(done: Mapping[str, object]) -> None:
    """End the command with a code of its own where the hub that leads has not the keys, once it has printed what it did.

    Raises:
        Ended: another hub needs a copy of the keys, and the change was not announced.
    """
    to_copy = done.get("copy")
    if isinstance(to_copy, ToCopy):
        text = "; ".join(to_copy)
        if done.get("announced") or not to_copy.leads_elsewhere:
            click.echo(f"warning: {text}", err=True)
        else:
            raise Ended(Exit.KEY, f"the keys are in force, and the hub that leads cannot sign with them until they are copied: {text}")


def _lacking(directory: Path, online: Sequence[str]) -> "ToCopy":
    """Return for each other place in which a hub leads or stands by what is to be copied there from here."""
    from hub.database.members import Members  # noqa: PLC0415  # SQLAlchemy

    if not load(directory).is_on_server:
        return ToCopy([])
    try:
        store = open_store(directory)
        live = [one for one in Members(store.database).all() if one.is_live]
        store.close()
    except FleetcastError as error:  # It is signed and in force all the same.
        click.echo(f"warning: it is not known which hubs lack the new keys: {error}", err=True)
        return ToCopy([])
    here = (socket.gethostname()[:256], str(directory.resolve()))
    places: dict[tuple[str, str], list[str]] = {}
    for one in sorted(live, key=lambda one: -one.term):
        if {"controller", STANDBY} & set(one.roles.split(",")) and (one.host, one.folder) != here:
            what = f"{one.name} (pid {one.pid}), which {'leads' if one.term else 'stands by'}"
            places.setdefault((one.host, one.folder), []).append(what)
    files = ", ".join(str(path) for role in online if (path := present(stem_of(directory, role))) is not None)
    lines = [
        f"copy {files} to {Path(folder, 'online') if folder else 'online/ of the folder'} on {host}, for {', '.join(names)}"
        for (host, folder), names in places.items()
    ]
    leads_elsewhere = any(one.term and (one.host, one.folder) != here for one in live)
    return ToCopy(lines, leads_elsewhere=leads_elsewhere)


def _is_announced(directory: Path, repository: "Repository", offer: "Offer") -> bool:
    if not hub_runs(directory):
        click.echo("No hub runs here now: it announces this when one starts.", err=True)
        return False
    until = time.monotonic() + ANNOUNCED_SECONDS
    versions: Mapping[str, int] = {role: document.signed.version for role, document, _ in offer.documents()}
    while not repository.has_announced(versions):
        if time.monotonic() >= until:
            click.echo("warning: the hub has not announced it: see `fleetcast watch --kind alert` and the hub's log", err=True)
            return False
        time.sleep(LOOK_SECONDS)
    return True
