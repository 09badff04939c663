"""`fleetcast models`: the models of the fleet, and how to remove one."""

from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import click

from fleetcast import interrupts
from fleetcast.cli.list_choice import list_options
from fleetcast.cli.listing_group import ListingGroup
from fleetcast.counted import counted, verb
from hub.cli.options import (
    check_model,
    dir_option,
    hub_runs,
    json_option,
    open_store,
    opened,
    passphrase,
    passphrase_option,
    show,
    show_one,
)
from hub.cli.releases import of_group
from hub.cli.removal import confirm, own_payloads, yes_option
from hub.operations.release_rows import manifests, model_rows, nodes_serving, present_deployments
from hub.publish.block_store import BlockStore
from hub.publish.release_blocks import free
from hub.signing.keys import load_signer
from hub.signing.tuf_repository import Repository
from schemas import codec
from schemas.deployments import Deployment
from schemas.errors import Code, Refused
from schemas.manifest import Manifest
from schemas.names import sha256


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
    rows = model_rows(opened(directory))
    show(rows, ["model", "releases", "newest", "rollout", "nodes_serving"], as_json=as_json, empty="There is no model.")


@models.command()
@click.argument("model")
@click.option("--force", is_flag=True, help="Remove it even if it has a rollout. Nodes stop serving it.")
@yes_option
@dir_option
@passphrase_option
@json_option
@click.pass_context
def remove(ctx: click.Context, model: str, force: bool, yes: bool, directory: Path, passphrase_file: Path | None, as_json: bool) -> None:
    """Remove a model for good, with all its releases.

    The targets key takes the model from its team. Nodes that learn of it stop serving the model and free their disk. What was heard of
    its releases (windows, drift, receipts) stays until it is too old. The versions cannot be published again under this name.

    \b
    Examples:
      fleetcast models remove delay
      fleetcast models remove delay --force --yes --json
    """
    directory = of_group(ctx, directory)
    store, repository, blocks = open_store(directory), Repository(directory / "trust"), BlockStore(directory / "blocks")
    is_left = model in repository.removed_models()  # An earlier removal was cut off after it was signed.
    if not is_left:
        check_model(repository, model)
    documents = [repository.kept_manifest(*name) for name in repository.removed() if name[0] == model]
    gone = {sha256(one): codec.decode(Manifest, one) for one in documents}
    leaving = {**gone, **{digest: one for digest, one in manifests(repository).items() if one.model == model}}
    serving = sum(nodes_serving(store)[digest] for digest in leaving)
    if not force and not is_left:
        _check_not_rolled_out(present_deployments(repository, model), model, serving)
    stop = f" {counted(serving, 'node')} {verb(serving, 'serve')} it, and will stop." if serving else ""
    confirm(f"Remove model {model} and all its releases for good?{stop}", yes=yes or is_left, folder=directory)
    secret = b"" if is_left else passphrase(passphrase_file)  # asked for before others have to wait
    with blocks.removing(), interrupts.held():
        own = own_payloads(list(leaving.values()), {key: one for key, one in manifests(repository).items() if one.model != model}, blocks)
        if not is_left:
            _undelegate(repository, directory, model, secret)
        freed = free(blocks, own)
    store.add_event("release", f"model {model} was removed", {"model": model})
    store.close()
    row = {"model": model, "releases": len(leaving), "freed_bytes": freed, "nodes_serving": serving, "announced": hub_runs(directory)}
    show_one(row, as_json=as_json)


def _undelegate(repository: Repository, directory: Path, model: str, secret: bytes) -> None:
    """Take the model from its team, and its rollout out of the rollouts role; a hub whose online keys are elsewhere does the second."""
    now, targets, rollouts = datetime.now(UTC), load_signer(directory / "keys" / "targets.pem", secret), None
    with suppress(Refused):
        rollouts = load_signer(directory / "online" / "rollouts.pem", secret)
    repository.undelegate(model, targets=targets, now=now)
    if rollouts is not None:
        repository.drop_rollouts(rollouts=rollouts, now=now)


def _check_not_rolled_out(deployments: Sequence[Deployment], model: str, serving: int) -> None:
    """Check that nodes are not meant to serve a model.

    Raises:
        Refused: RELEASE_NEEDED, with what would stop.
    """
    if deployments:
        named = " and ".join(f"{one.release.version} ({one.state})" for one in deployments)
        reason = f"model {model} has a rollout of {named}, and {counted(serving, 'node')} {verb(serving, 'serve')} it"
        raise Refused(Code.RELEASE_NEEDED, f"{reason}: with --force it is removed, and they stop serving it")
