"""`fleetcast models`: the models of the fleet, and how to remove one."""

from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import click

from fleetcast import interrupts
from fleetcast.cli.list_choice import list_options
from fleetcast.cli.listing_group import ListingGroup
from hub.cli.options import (
    changes_fleet,
    dir_option,
    hub_runs,
    json_option,
    opened,
    passphrase,
    passphrase_option,
    show,
    show_one,
)
from hub.cli.releases import REMOVED, of_group
from hub.cli.remote import remote
from hub.cli.removal import confirm, over_the_api, yes_option
from hub.operations import removing
from hub.operations.release_rows import model_rows
from hub.signing.keys import load_signer
from hub.signing.tuf_repository import Repository
from schemas.errors import Refused


@click.group(cls=ListingGroup)
@dir_option
@json_option
@list_options()
@click.pass_context
def models(ctx: click.Context, directory: Path, as_json: bool) -> None:
    """List the models.

    \b
    Examples:
      fleetcast models
      fleetcast models --json
      fleetcast models remove delay
    """
    if ctx.invoked_subcommand is not None:
        ctx.obj = directory
        return
    hub = remote()
    rows = list(hub.models()) if hub is not None else model_rows(opened(directory))
    show(rows, ["model", "releases", "newest", "rollout", "nodes_serving"], as_json=as_json, empty="There is no model.")


@models.command()
@click.argument("model")
@click.option("--force", is_flag=True, help="Remove it even if it has a rollout. Nodes stop serving it.")
@click.option(
    "--targets-key",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Sign with this targets key. The default is that in the fleet's folder; with --hub it must be given.",
)
@yes_option
@changes_fleet
@dir_option
@passphrase_option
@json_option
@click.pass_context
def remove(
    ctx: click.Context,
    model: str,
    force: bool,
    targets_key: Path | None,
    yes: bool,
    directory: Path,
    passphrase_file: Path | None,
    as_json: bool,
) -> None:
    """Remove a model for good, with all its releases.

    The targets key takes the model from its team. Nodes that learn of it stop serving the model and free their disk. What was heard of
    its releases (windows, drift, receipts) stays until it is too old. The versions cannot be published again under this name.

    \b
    Examples:
      fleetcast models remove delay
      fleetcast models remove delay --force --yes --json
    """
    directory = of_group(ctx, directory)
    if (hub := remote()) is not None:
        if targets_key is None:
            raise click.UsageError("the fleet's targets key signs the removal of a model, here and not at the hub: --targets-key names it")
        done = over_the_api(hub, model, None, force=force, yes=yes, key=targets_key, secret=partial(passphrase, passphrase_file))
        show_one({"model": model, "releases": done["releases"], **{name: done[name] for name in REMOVED}}, as_json=as_json)
        return
    fleet = opened(directory)
    asked = removing.of_model(fleet, model)
    asked.check(force=force)
    confirm(asked.question, yes=yes or asked.is_left, where=f"fleet {directory}")
    secret = b"" if asked.is_left else passphrase(passphrase_file)  # asked for before others have to wait
    with interrupts.held():
        key = targets_key or directory / "keys" / "targets.pem"
        freed = removing.remove(fleet, asked, sign=lambda: _undelegate(fleet.repository, directory, key, model, secret))
    fleet.store.close()
    found = {"freed_bytes": freed, "nodes_serving": asked.nodes_serving, "announced": hub_runs(directory)}
    show_one({"model": model, "releases": len(asked.leaving), **found}, as_json=as_json)


def _undelegate(repository: Repository, directory: Path, key: Path, model: str, secret: bytes) -> None:
    """Take the model from its team, and its rollout out of the rollouts role; a hub whose online keys are elsewhere does the second."""
    now, targets, rollouts = datetime.now(UTC), load_signer(key, secret), None
    with suppress(Refused):
        rollouts = load_signer(directory / "online" / "rollouts.pem", secret)
    repository.undelegate(model, targets=targets, now=now)
    if rollouts is not None:
        repository.drop_rollouts(rollouts=rollouts, now=now)
