"""`fleetcast releases`: what has been published, how many nodes serve it, and what can be removed."""

from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import click

from fleetcast import interrupts
from fleetcast.cli.list_choice import list_options
from fleetcast.cli.listing_group import ListingGroup
from hub.cli.options import (
    changes_fleet,
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
    split,
)
from hub.cli.remote import remote
from hub.cli.removal import confirm, over_the_api, yes_option
from hub.operations import removing
from hub.operations.release_rows import release_rows
from hub.signing.keys import load_signer, public_pem
from hub.signing.metadata_files import write
from hub.signing.model_signature import sign_files
from hub.signing.tuf_repository import Repository
from schemas import codec
from schemas.errors import Code, Refused
from schemas.manifest import Manifest
from schemas.names import version_key

REMOVED = ("freed_bytes", "nodes_serving", "announced")  # What is shown of a removal.


@click.group(cls=ListingGroup)
@click.argument("model", required=False)
@dir_option
@json_option
@list_options()
@click.pass_context
def releases(ctx: click.Context, model: str | None, directory: Path, as_json: bool) -> None:
    """List the releases of every model, or of one.

    "Needed as" says what the model's rollout names a release as. A release that it does not name can be removed; "frees" says how many
    bytes of the hub's disk only this release needs.

    \b
    Examples:
      fleetcast releases
      fleetcast releases delay --json
      fleetcast releases remove delay@1.0.0
    """
    if ctx.invoked_subcommand is not None:
        ctx.obj = directory
        return
    hub = remote()
    if hub is not None:
        names = [model] if model is not None else [row["model"] for row in hub.models()]
        rows = [row for name in names for row in sorted(hub.releases(name), key=lambda row: version_key(str(row["version"])))]
    else:
        fleet = opened(directory)
        if model is not None:
            check_model(fleet.repository, model)
        rows = release_rows(fleet, model)
    columns = ["model", "version", "release", "created", "variants", "bytes", "blocks", "signals", "nodes_serving", "needed_as", "frees"]
    show(rows, columns, as_json=as_json, empty="Nothing has been published.")


@releases.command()
@click.argument("release", metavar="MODEL@VERSION")
@click.option("--force", is_flag=True, help="Remove it even if the model's rollout names it.")
@click.option(
    "--team-key",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Key of the model's team. The default is that in the fleet's folder; with --hub it must be given.",
)
@yes_option
@changes_fleet
@dir_option
@passphrase_option
@json_option
@click.pass_context
def remove(
    ctx: click.Context,
    release: str,
    force: bool,
    team_key: Path | None,
    yes: bool,
    directory: Path,
    passphrase_file: Path | None,
    as_json: bool,
) -> None:
    """Remove a release for good, and free the blocks that only it needs.

    Its version cannot be published again. A node that serves the release keeps it until a rollout moves the node. What was heard of the
    release (windows, drift, receipts) stays until it is too old.

    \b
    Examples:
      fleetcast releases remove delay@1.0.0
      fleetcast releases remove delay@1.0.0 --yes --json
    """
    directory = of_group(ctx, directory)
    model, version = split(release)
    if (hub := remote()) is not None:
        if team_key is None:
            raise click.UsageError("the team signs a removal, here and not at the hub: --team-key names its key")
        secret = partial(passphrase, passphrase_file)
        done = over_the_api(hub, model, version, force=force, yes=yes, key=team_key, secret=secret)
        show_one({"release": release, **{name: done[name] for name in REMOVED}}, as_json=as_json)
        return
    fleet = opened(directory)
    asked = removing.of_release(fleet, model, version)
    asked.check(force=force)
    confirm(asked.question, yes=yes or asked.is_left, where=f"fleet {directory}")
    phrase = b"" if asked.is_left else passphrase(passphrase_file)  # asked for before others have to wait

    def sign() -> None:
        team = load_signer(team_key or directory / "keys" / "team.pem", phrase)
        fleet.repository.remove_release(model, version, team=team, now=datetime.now(UTC))

    with interrupts.held():
        freed = removing.remove(fleet, asked, sign=sign)
    fleet.store.close()
    show_one(
        {"release": release, "freed_bytes": freed, "nodes_serving": asked.nodes_serving, "announced": hub_runs(directory)}, as_json=as_json
    )


@releases.command("export-signature")
@click.argument("release", metavar="MODEL@VERSION")
@click.option("--out", required=True, type=click.Path(path_type=Path, dir_okay=False), help="File to write.")
@click.option("--variant", help="Variant whose files are signed. The default is the first.")
@click.option("--key", "key_file", type=click.Path(path_type=Path, dir_okay=False), help="Key that signs. The default is the team's.")
@changes_fleet
@dir_option
@passphrase_option
@json_option
@click.pass_context
def export_signature(
    ctx: click.Context,
    release: str,
    out: Path,
    variant: str | None,
    key_file: Path | None,
    directory: Path,
    passphrase_file: Path | None,
    as_json: bool,
) -> None:
    """Write a signature of a release's files for OpenSSF Model Signing.

    Readers outside of fleetcast verify files with it and with the public key, which is written beside it as a .pub file, by that project's
    tool. It verifies ECDSA keys only. Nodes do not read it: they verify the release by TUF.

    \b
    Examples:
      fleetcast releases export-signature delay@1.2.0 --out delay.sig \\
        --key openssf.pem
      model_signing verify key FOLDER --signature delay.sig \\
        --public_key delay.pub
    """
    directory = of_group(ctx, directory)
    model, version = split(release)
    repository = Repository(directory / "trust")
    check_model(repository, model)
    manifest = codec.decode(Manifest, repository.manifest(model, version))
    name = variant or manifest.variants[0].name
    chosen = next((one for one in manifest.variants if one.name == name), None)
    if chosen is None:
        known = ", ".join(one.name for one in manifest.variants)
        raise Refused(Code.RELEASE_NO_VARIANT, f"{release} has no variant {name!r}; it has {known}")
    signer = load_signer(key_file or directory / "keys" / "team.pem", passphrase(passphrase_file))
    golden = manifest.golden_of(chosen)  # It is the device's proof, and no part of the model that readers elsewhere have.
    files = {file.path: file.digest for file in manifest.files_of(name) if golden is None or file != golden.file}
    write(out, sign_files(f"{model}-{version}", files, signer), mode=0o644)
    public = out.with_suffix(".pub")
    write(public, public_pem(signer.public_key), mode=0o644)
    store = open_store(directory)
    store.add_event(
        "release", f"a signature of {release} was exported, by key {signer.public_key.keyid[:12]}", {"model": model, "version": version}
    )
    store.close()
    row = {"release": release, "variant": name, "files": sorted(files), "signature": str(out), "public_key": str(public)}
    show_one({**row, "key": signer.public_key.keyid}, as_json=as_json)


def of_group(ctx: click.Context, directory: Path) -> Path:
    """Return the fleet's folder: `--dir` of the command, or else that of its group."""
    said = ctx.get_parameter_source("directory")
    return directory if said is click.core.ParameterSource.COMMANDLINE or ctx.obj is None else ctx.obj
