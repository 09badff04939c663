"""`fleetcast keys ceremony`: holders of root keys sign a change, each on their own machine, by a file that goes from one to the next."""

from datetime import UTC, datetime
from pathlib import Path

import click

from fleetcast import interrupts
from hub.cli.key_files import Passphrases, announced, check_copied, note, online_keys, promote_named
from hub.cli.key_rotation import print_offer
from hub.cli.options import Lines, changes_fleet, dir_option, json_option, passphrase_option, show_one
from hub.cli.removal import confirm, yes_option
from hub.settings import load
from hub.signing import key_offers
from hub.signing.key_changes import Change, KeyChanges, RootHolders
from hub.signing.keys import load_signer, public_key
from hub.signing.tuf_repository import Repository
from schemas.errors import Code, Refused

ROOT_BYTES_MAX = 1024 * 1024


@click.command()
@click.option("--offer", type=click.Path(path_type=Path, dir_okay=False), help="Write an offer that changes the root keys to this file.")
@click.option(
    "--add", multiple=True, type=click.Path(path_type=Path, dir_okay=False), help="With --offer: a new holder's public key. Repeatable."
)
@click.option("--remove", multiple=True, metavar="KEY", help="With --offer: id of a root key to take out, or its beginning. Repeatable.")
@click.option("--threshold", type=click.IntRange(1, 16), help="With --offer: number of root keys that must sign. The default is as it is.")
@click.option("--sign", type=click.Path(path_type=Path, dir_okay=False), help="Show what this offer changes, and sign it.")
@click.option("--key", "key_file", type=click.Path(path_type=Path, dir_okay=False), help="With --sign: the holder's .pem or .uri file.")
@click.option(
    "--root", "own_root", type=click.Path(path_type=Path, dir_okay=False), help="With --sign: a root.json that the holder has kept."
)
@click.option(
    "--apply", "signed", multiple=True, type=click.Path(path_type=Path, dir_okay=False), help="Put a signed offer into force. Repeatable."
)
@yes_option
@changes_fleet
@dir_option
@passphrase_option
@json_option
def ceremony(
    offer: Path | None,
    add: tuple[Path, ...],
    remove: tuple[str, ...],
    threshold: int | None,
    sign: Path | None,
    key_file: Path | None,
    own_root: Path | None,
    signed: tuple[Path, ...],
    yes: bool,
    directory: Path,
    passphrase_file: Path | None,
    as_json: bool,
) -> None:
    """Change root keys by an offer that each holder signs on their own machine.

    --offer, in the fleet's folder, writes what is to be signed. Without --add, --remove and --threshold the root keys stay, and the root
    is signed for another year.

    --sign, on each holder's machine, shows what the offer changes, as read from the metadata, and signs it. It needs no fleet and no
    network. All holders must see the same "compare". With --root the offer must follow from a root that the holder has kept.

    --apply, in the fleet's folder, puts it into force. Holders may sign one file in turn, or each a copy: --apply takes all copies.

    \b
    Examples:
      fleetcast keys ceremony --offer change.json --remove 1f0c2a \\
        --add dave.pub
      fleetcast keys ceremony --sign change.json --key alice.pem \\
        --root root.json
      fleetcast keys ceremony --apply change.json
    """
    if [offer is not None, sign is not None, bool(signed)].count(True) != 1:
        raise click.UsageError("give one of --offer, --sign and --apply")
    if (add or remove or threshold) and offer is None:
        raise click.UsageError("--add, --remove and --threshold go with --offer")
    if (key_file is None) != (sign is None) or (own_root is not None and sign is None):
        raise click.UsageError("--sign needs --key; --key and --root go with --sign")
    if offer is not None:
        _offer(directory, offer, add, remove, threshold, as_json=as_json)
    elif sign is not None and key_file is not None:
        _sign(sign, key_file, own_root, Passphrases(passphrase_file), yes=yes, as_json=as_json)
    else:
        _apply(directory, signed, as_json=as_json)


def _offer(directory: Path, path: Path, add: tuple[Path, ...], remove: tuple[str, ...], threshold: int | None, *, as_json: bool) -> None:
    changes = KeyChanges(directory / "trust", load(directory).fleet)
    present = changes.root_keys()
    keys = {key.keyid: key for key in present.keys}
    for text in remove:
        found = [keyid for keyid in keys if keyid.startswith(text.lower())]
        if len(found) != 1:
            known = ", ".join(one[: key_offers.SHORT] for one in keys)
            raise Refused(Code.KEY_NOT_AUTHORISED, f"--remove {text}: {len(found)} of the root keys begin like this; there are {known}")
        del keys[found[0]]
    added = [public_key(one) for one in add]
    keys |= {key.keyid: key for key in added}
    draft = changes.draft(Change(holders=RootHolders(list(keys.values()), threshold or present.threshold)), now=datetime.now(UTC))
    key_offers.write(path, draft)
    note(directory, f"a change of keys was offered for signature: {draft.in_words()}", offer=draft.digest())
    print_offer(draft, path, as_json=as_json)


def _sign(path: Path, key_file: Path, own_root: Path | None, passphrases: Passphrases, *, yes: bool, as_json: bool) -> None:
    offer = key_offers.read(path)
    if own_root is not None:
        offer.check_from(_read_root(own_root))
    else:
        click.echo(
            f"warning: without --root nothing here shows that this is your fleet's root (version {offer.present_root.signed.version}): "
            "compare with the other holders",
            err=True,
        )
    for line in (*offer.changes(), f"compare: {offer.digest()}"):
        click.echo(line, err=True)
    confirm(f"Sign this change of fleet {offer.fleet}?", yes=yes, where=f"fleet {path}")
    signer = load_signer(key_file, passphrases.of(key_file.name.partition(".")[0]))
    roles = offer.sign(signer)
    key_offers.write(path, offer)
    lacks = Lines(f"{role}: {text}" for role, text in offer.missing().items())
    signed = {"offer": str(path), "signed": roles, "key": signer.public_key.keyid, "compare": offer.digest(), "lacks": lacks}
    show_one(signed, as_json=as_json)


def _read_root(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(ROOT_BYTES_MAX)
    except OSError as error:
        raise Refused(Code.SETTINGS_INVALID, f"{path}: {error.strerror}") from None


def _apply(directory: Path, paths: tuple[Path, ...], *, as_json: bool) -> None:
    changes, repository = KeyChanges(directory / "trust", load(directory).fleet), Repository(directory / "trust")
    offer, *copies = [key_offers.read(path) for path in paths]
    for copy in copies:
        offer.merge(copy)
    before = online_keys(repository)
    with interrupts.held():
        changed, said = changes.take_over(offer, now=datetime.now(UTC)), offer.changes()
        promoted = promote_named(directory, repository)
        if changed:
            note(directory, f"keys were changed: {offer.in_words()}", changes=said, offer=offer.digest())
    replaced = [role for role, keyids in online_keys(repository).items() if keyids != before[role] or role in promoted]
    done = announced(directory, repository, offer, online=replaced)
    applied = changed or "it was in force already"
    show_one({"applied": applied, "changes": Lines(said), "new_keys_in_place": promoted, **done}, as_json=as_json)
    check_copied(done)
