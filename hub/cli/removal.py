"""What `releases remove` and `models remove` share: who names a release, who serves it, what removing it frees, and asking first."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import click

from hub.publish.block_store import BlockStore
from hub.publish.release_blocks import Payloads, own
from hub.signing import deployment_statements
from hub.signing.tuf_repository import Repository
from schemas import codec
from schemas.deployments import Deployment
from schemas.errors import Code, Refused
from schemas.manifest import Manifest

yes_option = click.option("--yes", is_flag=True, help="Do not ask for confirmation. Without a terminal it must be given.")


def present_deployments(repository: Repository, model: str) -> tuple[Deployment, ...]:
    """Return a model's deployments as they are signed."""
    statement = deployment_statements.read(repository, model)
    return statement.deployments.deployments if statement is not None else ()


def needed_as(deployments: Sequence[Deployment]) -> dict[bytes, tuple[str, Deployment]]:
    """Return what deployments name releases as, by digest: a release that their nodes run, or one that these go back to."""
    fallbacks = {one.fallback.digest: ("fallback", one) for one in deployments if one.fallback is not None}
    return {**fallbacks, **{one.release.digest: ("release", one) for one in deployments}}


def manifests(repository: Repository) -> dict[bytes, Manifest]:
    """Return every release of the fleet by digest."""
    return {digest: codec.decode(Manifest, repository.kept_manifest(*name)) for name, digest in repository.listed().items()}


def own_payloads(leaving: Sequence[Manifest], staying: Mapping[bytes, Manifest], store: BlockStore) -> Payloads:
    """Return the payloads that only these releases need.

    Raises:
        Refused: the block list of a release that stays is lost, so nobody can say what it needs.
    """
    parts = [Payloads.left_of(manifest, store) for manifest in leaving]
    together = Payloads(frozenset().union(*(one.files for one in parts)), frozenset().union(*(one.lists for one in parts)))
    return own(together, [Payloads.of(manifest, store) for manifest in staying.values()])


def confirm(question: str, *, yes: bool, folder: Path) -> None:
    """Ask the operator, on a terminal.

    Raises:
        Refused: there is nobody to ask.
        click.Abort: the operator says no.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise Refused(Code.SETTINGS_INVALID, f"{question} Without a terminal nobody can be asked: add --yes (fleet {folder})")
    click.confirm(question, abort=True, err=True)
