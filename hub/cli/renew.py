"""`fleetcast renew`: sign again what expires, with the keys that people keep."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from hub.cli.options import changes_fleet, check_model, dir_option, json_option, open_store, passphrase, passphrase_option, show, split
from hub.settings import load
from hub.signing.keys import load_signer
from hub.signing.tuf_repository import Repository
from schemas.errors import FleetcastError


@click.command()
@click.option(
    "--model",
    "models",
    multiple=True,
    help="Renew only this model's releases. Repeatable. The default is all releases, and the delegations.",
)
@click.option(
    "--keep",
    multiple=True,
    metavar="MODEL@VERSION",
    help="Sign only these releases of their models again, and withdraw the others for good. Repeatable.",
)
@changes_fleet
@dir_option
@passphrase_option
@json_option
def renew(models: tuple[str, ...], keep: tuple[str, ...], directory: Path, passphrase_file: Path | None, as_json: bool) -> None:
    """Sign delegations and releases again before they expire.

    The hub renews its own roles by itself. A team whose key is new takes over the releases that --keep names.

    \b
    Examples:
      fleetcast renew
      fleetcast renew --model delay --json
      fleetcast renew --keep delay@1.1.0 --keep delay@1.2.0
    """
    load(directory)  # says so when there is no fleet
    repository, now = Repository(directory / "trust"), datetime.now(UTC)
    kept: dict[str, list[str]] = {}
    for model, version in map(split, keep):
        repository.manifest(model, version)
        kept.setdefault(model, []).append(version)
    models = tuple(dict.fromkeys([*models, *kept]))
    for model in models:
        check_model(repository, model)
    secret = passphrase(passphrase_file)
    team = load_signer(directory / "keys" / "team.pem", secret)
    if not models:
        repository.renew_targets(targets=load_signer(directory / "keys" / "targets.pem", secret), now=now)
    for model in models or repository.models():
        if repository.releases(model):
            repository.renew_releases(model, team=team, now=now, keep=kept.get(model))
    try:
        what = ", ".join(models) or "all models"
        open_store(directory).add_event("metadata", f"the metadata of {what} was signed again", {"models": list(models)})
    except FleetcastError as error:  # It is signed and will be announced all the same.
        click.echo(f"warning: it is signed, but `fleetcast history` will not show it: {error}", err=True)
    rows: list[dict[str, Any]] = [
        {"role": one.role, "expires": one.expires.isoformat(), "severity": one.severity} for one in repository.expiries(now)
    ]
    show(rows, ["role", "expires", "severity"], as_json=as_json, empty="Nothing is signed.")
