"""`fleetcast keys`: which key signs what and where it lies; make one, revoke one, and set the oldest version that nodes activate."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import click

from fleetcast.cli.list_choice import list_options
from hub.cli.command_queue import notice
from hub.cli.enroll import reload_option, revoke_enrolled
from hub.cli.errors import Ended, Exit
from hub.cli.key_ceremony import ceremony
from hub.cli.key_files import Passphrases, key_passphrases_option, name_remote_key
from hub.cli.key_rotation import carried_out, rotate, signs_change
from hub.cli.options import changes_fleet, check_model, dir_option, json_option, passphrase_option, show, show_one, split
from hub.core.publish.metadata_expiry import renewal
from hub.settings import load
from hub.signing.key_changes import Change, KeyChanges, RoleKeys
from hub.signing.key_places import PUBLIC, SUFFIXES, present, root_stems, stem_of, waiting
from hub.signing.keys import create_key, load_signer, public_pem
from hub.signing.metadata_files import write
from hub.signing.tuf_repository import Repository
from hub.signing.unsigned_roles import unsigned_in_words
from schemas.bundle import role_name
from schemas.errors import Code, Refused
from schemas.names import version_key

SHORT = 12


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def keys() -> None:
    """Show, rotate and revoke the fleet's keys.

    \b
    Examples:
      fleetcast keys show
      fleetcast keys rotate snapshot timestamp
      fleetcast keys rotate team --keep delay@1.2.0
      fleetcast keys ceremony --offer change.json --add dave.pub
    """


keys.add_command(rotate)
keys.add_command(ceremony)


@keys.command("show")
@click.option("--check", is_flag=True, help="Open each key that is in the folder, and compare it with the one that the role names.")
@dir_option
@passphrase_option
@key_passphrases_option
@json_option
@list_options()
def show_(check: bool, directory: Path, passphrase_file: Path | None, key_passphrases: tuple[str, ...], as_json: bool) -> None:
    """Show each role with its keys, their number that must sign, and its expiry.

    A role that is `warning`, `urgent` or `expired` must be signed again, and the command says how. A running hub raises an alert for it.

    \b
    Examples:
      fleetcast keys show
      fleetcast keys show --check --passphrase-file secret --json
    """
    changes, repository = KeyChanges(directory / "trust", load(directory).fleet), Repository(directory / "trust")
    passphrases = Passphrases(passphrase_file, key_passphrases)
    unsigned = repository.unsigned().roles
    rows = [_row(one, directory, passphrases if check else None, unsigned) for one in changes.roles(datetime.now(UTC))]
    columns = ["role", "keys", "threshold", "expires", "severity", "lies_at", *(["opens"] if check else [])]
    short = [{**row, "keys": [one[:SHORT] for one in row["keys"]]} for row in rows]
    show(rows, columns, as_json=as_json, empty="Nothing is signed.", in_words=short)
    minimums = repository.minimums()
    if minimums and not as_json:
        click.echo("Oldest version that nodes activate: " + ", ".join(f"{model} {version}" for model, version in minimums.items()))
    for text in unsigned_in_words(unsigned, len(repository.models())):
        click.echo(text, err=True)
    for row in rows:
        if row["severity"] != "ok":
            click.echo(f"{row['role']} {_left(row)}: {row['renewal']}", err=True)


def _left(row: dict[str, Any]) -> str:
    return f"expired at {row['expires']}" if row["severity"] == "expired" else f"expires at {row['expires']} ({row['severity']})"


def _row(one: RoleKeys, directory: Path, passphrases: Passphrases | None, unsigned: Sequence[str]) -> dict[str, Any]:
    team = one.role.startswith(role_name(""))
    stems = root_stems(directory) if one.role == "root" else [stem_of(directory, "team" if team else one.role)]
    files = [path for stem in stems for path in (present(stem), waiting(stem)) if path is not None]
    opens = [f"{path.name}: {_opened(path, one, passphrases)}" for path in files] if passphrases is not None else None
    return {
        "role": one.role,
        "keys": list(one.keyids),
        "threshold": one.threshold,
        "expires": one.expires.isoformat() if one.expires is not None else None,
        "severity": one.severity,
        "signed": one.role not in unsigned,
        "lies_at": [str(path.relative_to(directory)) for path in files],
        **({"opens": opens} if opens is not None else {}),
        "renewal": renewal(one.role),
    }


def _opened(path: Path, one: RoleKeys, passphrases: Passphrases) -> str:
    try:
        keyid = load_signer(path, passphrases.of(path.name.partition(".")[0])).public_key.keyid
    except Refused as refusal:
        return str(refusal.code)
    return "yes" if keyid in one.keyids else f"another key, {keyid[:SHORT]}"


@keys.command()
@click.argument("stem", type=click.Path(path_type=Path), metavar="NAME")
@click.option("--kind", type=click.Choice(["ed25519", "p256"]), default="ed25519", show_default=True, help="Kind of the key.")
@click.option("--uri", help="Use a key on a token or in a key service, such as hsm:2?label=fleet.")
@click.option(
    "--public-key",
    type=click.Path(path_type=Path, dir_okay=False),
    help="PEM file with the public half, for a URI that cannot be asked for it.",
)
@passphrase_option
@json_option
def make(
    stem: Path, kind: Literal["ed25519", "p256"], uri: str | None, public_key: Path | None, passphrase_file: Path | None, as_json: bool
) -> None:
    """Make a key on its holder's own machine; no fleet is needed.

    NAME.pem is the private key, which stays here. NAME.pub is the public half, which goes to the fleet.

    With --uri the private key stays on its token or in its service, and NAME.uri says where that is. The passphrase is the token's PIN, and
    PYKCS11LIB names its PKCS#11 module.

    \b
    Examples:
      fleetcast keys make dave
      fleetcast keys make dave --uri 'hsm:2?label=fleet'
      fleetcast keys make team --uri 'awskms:alias/team' --public-key team.pub
    """
    for suffix in SUFFIXES:
        if (found := stem.with_name(stem.name + suffix)).exists():
            raise Ended(Exit.CONFLICT, f"{found} exists already, and a key is never overwritten: choose another name")
    secret = Passphrases(passphrase_file).of(stem.name)
    if uri is not None:
        known, path = name_remote_key(stem, uri, public_key, secret), stem.with_name(stem.name + ".uri")
    else:
        path = stem.with_name(stem.name + ".pem")
        create_key(path, secret, kind)
        known = load_signer(path, secret).public_key
    public = stem.with_name(stem.name + PUBLIC)
    write(public, public_pem(known), mode=0o644)
    show_one({"key": known.keyid, "kind": known.scheme, "private": uri or str(path), "public": str(public)}, as_json=as_json)


@keys.command()
@click.argument("release", metavar="MODEL@VERSION")
@signs_change
def minimum(
    release: str,
    offer_file: Path | None,
    key_files: tuple[Path, ...],
    directory: Path,
    passphrase_file: Path | None,
    key_passphrases: tuple[str, ...],
    as_json: bool,
) -> None:
    """Set the oldest version of a model that nodes activate.

    The targets key signs it. It bounds what an attacker with the hub's keys can make nodes run.

    \b
    Examples:
      fleetcast keys minimum delay@1.2.0
      fleetcast keys minimum delay@1.2.0 --offer minimum.json
    """
    model, version = split(release)
    repository = Repository(directory / "trust")
    check_model(repository, model)
    if all(version_key(one) < version_key(version) for one in repository.releases(model)):
        notice([f"no release of {model} is as new as {version}: nodes keep what they serve, and activate nothing until one is published"])
    done = carried_out(
        directory, Change(minimums={model: version}), Passphrases(passphrase_file, key_passphrases), key_files, offer_file, as_json=as_json
    )
    if done is not None:
        show_one({"model": model, "oldest_version": version, **done}, as_json=as_json)


@keys.group(context_settings={"help_option_names": ["-h", "--help"]})
def revoke() -> None:
    """Revoke a team's key or a node's certificates, without a successor.

    \b
    Examples:
      fleetcast keys revoke team --model delay
      fleetcast keys revoke node gateway-17
    """


@revoke.command()
@click.option("--model", "models", multiple=True, help="Revoke the key for this model. Repeatable. The default is every model.")
@signs_change
def team(
    models: tuple[str, ...],
    offer_file: Path | None,
    key_files: tuple[Path, ...],
    directory: Path,
    passphrase_file: Path | None,
    key_passphrases: tuple[str, ...],
    as_json: bool,
) -> None:
    """Let nobody publish for a model: do this first when a team's key is stolen.

    The targets key signs it. Nodes go on serving what they serve, and believe nothing more that the key has signed. `fleetcast keys rotate
    team` gives the model to a new key.

    \b
    Examples:
      fleetcast keys revoke team
      fleetcast keys revoke team --model delay --json
    """
    repository = Repository(directory / "trust")
    for model in models:
        check_model(repository, model)
    wanted: dict[str, Any] = dict.fromkeys(models or repository.models())
    if not wanted:
        raise Refused(Code.RELEASE_UNKNOWN, "this fleet has no model, so that no team has a key")
    done = carried_out(
        directory, Change(teams=wanted), Passphrases(passphrase_file, key_passphrases), key_files, offer_file, as_json=as_json
    )
    if done is not None:
        show_one({"models": list(wanted), **done}, as_json=as_json)


@revoke.command()
@click.argument("name", metavar="NODE")
@reload_option
@changes_fleet
@dir_option
@passphrase_option
@json_option
def node(name: str, pid_file: Path | None, directory: Path, passphrase_file: Path | None, as_json: bool) -> None:
    """Revoke an enrolled node's certificates, as `fleetcast enroll revoke` does.

    The key of a node that never enrolled is taken out by `fleetcast nodes forget`, or replaced by `fleetcast nodes replace`.

    \b
    Examples:
      fleetcast keys revoke node gateway-17
      fleetcast keys revoke node gateway-17 --reload /run/mosquitto/mosquitto.pid
    """
    mend = f"; `fleetcast nodes forget {name}` takes out the key of a node that only reported"
    revoke_enrolled(directory, name, pid_file, passphrase_file, as_json=as_json, mend=mend)
