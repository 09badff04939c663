"""What `releases remove` and `models remove` share: who names a release, who serves it, what removing it frees, and asking first."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import click

from hub.publish.block_store import BlockStore
from hub.publish.release_blocks import Payloads, own
from schemas.errors import Code, Refused
from schemas.manifest import Manifest

yes_option = click.option("--yes", is_flag=True, help="Do not ask for confirmation. Without a terminal it must be given.")


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
