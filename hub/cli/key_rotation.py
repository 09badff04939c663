"""`fleetcast keys rotate`: give roles new keys, with the keys that are here, or by an offer that their holders sign."""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args

import click

from fleetcast import interrupts
from hub.cli.key_files import (
    Passphrases,
    announced,
    check_copied,
    key_files_option,
    key_passphrases_option,
    new_key,
    note,
    online_keys,
    promote_named,
    sign_with_what_is_here,
)
from hub.cli.key_values import read_pairs
from hub.cli.options import Lines, changes_fleet, check_model, dir_option, json_option, passphrase_option, show_one, split
from hub.settings import load
from hub.signing import key_offers
from hub.signing.key_changes import Change, KeyChanges, RootHolders, TopLevel
from hub.signing.key_places import root_stems, signer_of, stem_of
from hub.signing.tuf_repository import Repository
from schemas.bundle import role_name
from schemas.errors import Code, Refused

TOP: tuple[TopLevel, ...] = get_args(TopLevel)
ROLES = ("root", "targets", "snapshot", "timestamp", "rollouts", "team")

offer_option = click.option(
    "--offer",
    "offer_file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write an offer for the holders of the keys in place of signing here: fleetcast keys ceremony.",
)


def signs_change(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options by which a change of keys is signed here or offered to the holders, and `changes_fleet`'s."""
    for option in (json_option, key_passphrases_option, passphrase_option, dir_option, changes_fleet, key_files_option, offer_option):
        command = option(command)
    return command


@click.command()
@click.argument("roles", nargs=-1, required=True, type=click.Choice(ROLES), metavar="ROLE...")
@click.option("--model", "models", multiple=True, help="For team: give the new key this model. Repeatable. The default is every model.")
@click.option("--keep", multiple=True, metavar="MODEL@VERSION", help="For team: sign this release with the new key. Repeatable.")
@click.option("--keep-all", is_flag=True, help="For team: sign every release with the new key, because the old one was not stolen.")
@click.option(
    "--new-key",
    "new_keys",
    multiple=True,
    metavar="ROLE=WHERE",
    help="Key to use in place of a new one: a URI such as targets=hsm:2?label=fleet, or a file with a public key. Repeatable.",
)
@signs_change
def rotate(
    roles: tuple[str, ...],
    models: tuple[str, ...],
    keep: tuple[str, ...],
    keep_all: bool,
    new_keys: tuple[str, ...],
    offer_file: Path | None,
    key_files: tuple[Path, ...],
    directory: Path,
    passphrase_file: Path | None,
    key_passphrases: tuple[str, ...],
    as_json: bool,
) -> None:
    """Give roles new keys.

    ROLE is root, targets, snapshot, timestamp, rollouts or team. A threshold of root keys signs for targets, snapshot and timestamp, and
    the targets key for rollouts and team. If these keys are not in the folder, --key names them, or --offer writes a file for their
    holders.

    After a theft name all roles whose keys were on the stolen machine in one command. A running hub takes new keys up by itself; for that
    they need the passphrase of the old ones. Nodes that are offline follow when they come back.

    New keys of snapshot, timestamp and rollouts lie in this folder alone. Where a hub leads or stands by on another machine, the command
    says which files are to be copied there, and ends with code 5 if the hub that leads has not signed with them yet.

    A new team signs only the releases that --keep names. The others are withdrawn for good; nodes that serve one keep it until a rollout
    moves them.

    \b
    Examples:
      fleetcast keys rotate snapshot timestamp rollouts
      fleetcast keys rotate team --keep delay@1.1.0 --keep delay@1.2.0
      fleetcast keys rotate targets --key /media/usb/root-1.pem \\
        --key /media/usb/root-2.pem
      fleetcast keys rotate targets --new-key 'targets=hsm:2?label=fleet'
      fleetcast keys rotate timestamp --offer timestamp.json
    """
    repository, passphrases = Repository(directory / "trust"), Passphrases(passphrase_file, key_passphrases)
    load(directory)  # says so when there is no fleet
    wanted = read_pairs("--new-key", new_keys, form="ROLE=WHERE")
    roles = tuple(dict.fromkeys(roles))
    _check_usage(roles, wanted, bool(models or keep or keep_all), bool(keep) or keep_all, offer_file)
    kept = _kept(repository, models, keep) if "team" in roles else {}
    if "team" in roles and not kept:
        raise Refused(Code.RELEASE_UNKNOWN, "this fleet has no model, so that no team has a key")
    change = _change(directory, roles, list(kept), wanted, passphrases)

    def sign_releases() -> dict[str, Any]:
        if "team" not in roles:
            return {}
        return {"releases": _take_over_releases(directory, repository, dict.fromkeys(kept) if keep_all else kept, passphrases)}

    done = carried_out(directory, change, passphrases, key_files, offer_file, as_json=as_json, then=sign_releases)
    if done is not None:
        show_one({"roles": list(roles), **done}, as_json=as_json)
        check_copied(done)


def _check_usage(roles: Sequence[str], wanted: Mapping[str, str], for_team: bool, says_what_to_keep: bool, offer_file: Path | None) -> None:
    if unknown := sorted(set(wanted) - set(roles)):
        raise click.UsageError(f"--new-key {unknown[0]}=...: {unknown[0]} is not among the roles to rotate")
    if for_team and "team" not in roles:
        raise click.UsageError("--model, --keep and --keep-all are about the team's key: name the role team")
    if "team" in roles and offer_file is None and not says_what_to_keep:
        raise click.UsageError("name each release that the new key signs by --keep, or say --keep-all if the old key was not stolen")
    if "root" in roles and (offer_file is not None or "root" in wanted):
        raise click.UsageError("root keys that lie with their holders are changed by fleetcast keys ceremony --offer")


def _kept(repository: Repository, models: Sequence[str], keep: Sequence[str]) -> dict[str, list[str] | None]:
    """Return which releases of which models the new team signs.

    Raises:
        Refused: RELEASE_UNKNOWN: there is no such model or release, or one key signs for more models than were named.
    """
    for model in models:
        check_model(repository, model)
    chosen = list(dict.fromkeys(models)) or repository.models()
    found: dict[str, list[str] | None] = {model: [] for model in chosen}
    for release in keep:
        model, version = split(release)
        repository.manifest(model, version)
        versions = found.get(model)
        if versions is None:
            raise Refused(Code.RELEASE_UNKNOWN, f"--keep {release}: {model} is not among the models that get a new key")
        versions.append(version)
    old = {keyid for model in chosen for keyid in repository.keyids(role_name(model))}
    left = [one for one in repository.models() if one not in chosen and old & set(repository.keyids(role_name(one)))]
    if left:
        reason = f"the same key signs for {', '.join(left)}, and keys/team.pem holds one key: rotate all of these models together"
        raise Refused(Code.KEY_NOT_AUTHORISED, reason)
    return found


def _change(
    directory: Path,
    roles: Sequence[str],
    models: Sequence[str],
    wanted: Mapping[str, str],
    passphrases: Passphrases,
) -> Change:
    """Make the new keys, and say which roles they are for."""
    made = {role: new_key(stem_of(directory, role), wanted.get(role), passphrases) for role in roles if role != "root"}
    holders = None
    if "root" in roles:
        changes = KeyChanges(directory / "trust", load(directory).fleet)
        present, stems = changes.root_keys(), root_stems(directory)
        if len(stems) < len(present.keys):
            reason = f"{len(present.keys)} root keys are to be replaced, and {len(stems)} are in {directory / 'keys'}"
            raise Refused(Code.KEY_NOT_AUTHORISED, f"{reason}: change those of other holders by fleetcast keys ceremony --offer")
        holders = RootHolders([new_key(stem, None, passphrases) for stem in stems], present.threshold)
    return Change(
        holders=holders,
        top={role: made[role] for role in TOP if role in made},
        rollouts=made.get("rollouts"),
        teams=dict.fromkeys(models, made["team"]) if "team" in made else {},
    )


def carried_out(
    directory: Path,
    change: Change,
    passphrases: Passphrases,
    key_files: Sequence[Path],
    offer_file: Path | None,
    *,
    as_json: bool,
    then: Callable[[], dict[str, Any]] = dict,
) -> dict[str, Any] | None:
    """Sign a change with the keys that are here and put it into force, or write an offer of it. Return what was done; None for an offer.

    `then` is what belongs to a change that is in force.

    Raises:
        Refused: keys are missing, which are named.
    """
    changes, repository = KeyChanges(directory / "trust", load(directory).fleet), Repository(directory / "trust")
    offer = changes.draft(change, now=datetime.now(UTC))
    failed = sign_with_what_is_here(directory, offer, key_files, passphrases)
    said = offer.changes()
    if offer_file is not None:
        key_offers.write(offer_file, offer)
        note(directory, f"a change of keys was offered for signature: {offer.in_words()}", offer=offer.digest())
        print_offer(offer, offer_file, as_json=as_json)
        return None
    if missing := offer.missing():
        reasons = [f"{role}: {text}" for role, text in missing.items()]
        mend = "name their files by --key, or write an offer for their holders by --offer"
        raise Refused(Code.KEY_NOT_AUTHORISED, f"{'; '.join([*reasons, *failed])}: {mend}")
    before = online_keys(repository)
    with interrupts.held():
        changes.take_over(offer, now=datetime.now(UTC))
        promote_named(directory, repository)
        note(directory, f"keys were changed: {offer.in_words()}", changes=said)
        more = then()
    replaced = [role for role, keyids in online_keys(repository).items() if keyids != before[role]]
    return {"changed": Lines(said), **announced(directory, repository, offer, online=replaced), **more}


def print_offer(offer: key_offers.Offer, path: Path, *, as_json: bool) -> None:
    """Print what an offer changes, what holders compare, and whose signatures it lacks."""
    lacks = [f"{role}: {text}" for role, text in offer.missing().items()]
    row = {"offer": str(path), "fleet": offer.fleet, "changes": Lines(offer.changes()), "compare": offer.digest(), "lacks": Lines(lacks)}
    show_one({**row, "expires": offer.expires().isoformat()}, as_json=as_json)


def _take_over_releases(
    directory: Path, repository: Repository, kept: Mapping[str, Sequence[str] | None], passphrases: Passphrases
) -> Lines:
    """Sign the releases that are kept with the new team's key, and return them."""
    done = Lines()
    for model, versions in kept.items():
        if not repository.releases(model):
            continue
        signer = signer_of(stem_of(directory, "team"), repository.keyids(role_name(model)), passphrases.of("team"))
        repository.renew_releases(model, team=signer, now=datetime.now(UTC), keep=versions)
        done += [f"{model}@{version}" for version in repository.releases(model)]
    note(directory, f"the new team key signs {', '.join(done) or 'no release'}", releases=list(done))
    return done
