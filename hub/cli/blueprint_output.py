"""Print what applying a blueprint would change, what it costs, and whom it moves."""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from fleetcast.cli.terminal_text import plain
from fleetcast.counted import counted
from hub.cli.options import hub_runs, opened
from hub.cli.remote import remote
from schemas.errors import Code, Refused, Unreachable
from schemas.limits import BLUEPRINT_BYTES_MAX

if TYPE_CHECKING:
    from hub.client.hub_client import HubClient
    from hub.core.blueprint.reading import Written

T = TypeVar("T")
MISTAKES_SHOWN = 20
CHANGES_SHOWN = 200
SIGNS = {"add_deployment": "+", "remove_deployment": "-"}


def written(path: Path) -> "Written":
    """Read a blueprint from its file; `-` is the standard input.

    Raises:
        Refused: it cannot be read, or has mistakes.
    """
    from hub.core.blueprint.reading import read  # noqa: PLC0415  # with YAML, which --help does without

    return read(contents(path), name=_name(path))


def contents(path: Path) -> bytes:
    """Return a blueprint's text, at most one byte more than is allowed.

    Raises:
        Refused: it cannot be read.
    """
    try:
        if str(path) == "-":
            return sys.stdin.buffer.read(BLUEPRINT_BYTES_MAX + 1)
        with path.open("rb") as file:
            return file.read(BLUEPRINT_BYTES_MAX + 1)
    except OSError as error:
        mend = "; `fleetcast blueprint > fleet.yaml` writes one of what is now" if isinstance(error, FileNotFoundError) else ""
        raise Refused(Code.BLUEPRINT_INVALID, f"{path} cannot be read: {error.strerror}{mend}") from None


def _name(path: Path) -> str:
    from hub.core.blueprint.terms_apart import STANDARD_INPUT  # noqa: PLC0415  # with TUF, which --help does without

    return path.name if str(path) != "-" else STANDARD_INPUT


def difference(
    directory: Path, *, file: Path | None = None, revision: int | None = None, **insisted: bool
) -> "tuple[dict[str, Any], Difference]":
    """Compare a blueprint with the fleet: a file, a revision, or the one in force. Return the difference for a script, and who applies it.

    Raises:
        Refused: it does not fit the fleet, and its mistakes are printed; there is no such revision.
    """
    if (hub := remote()) is not None:
        return _printing(lambda: _over_the_api(hub, file, revision, insisted))
    return _printing(lambda: _in_folder(directory, file, revision, insisted))


@dataclass(frozen=True, slots=True)
class Difference:
    """Hold what applies a difference that was seen: it reports each change, and returns the revision and how many were made."""

    apply: "Callable[[Callable[[int, int, str], None]], tuple[int, int]]"
    close: Callable[[], None]


def _in_folder(directory: Path, file: Path | None, revision: int | None, insisted: Mapping[str, bool]) -> tuple[dict[str, Any], Difference]:
    from hub.operations import blueprint  # noqa: PLC0415  # with SQLAlchemy, which --help does without
    from hub.operations.blueprint_apply import apply  # noqa: PLC0415
    from hub.operations.blueprint_asked import in_force  # noqa: PLC0415

    asked = written(file) if file is not None else None
    fleet, options = opened(directory), blueprint.Options(**insisted)
    if asked is None:
        asked = blueprint.of_revision(fleet, revision) if revision is not None else in_force(fleet)
    found = blueprint.plan(fleet, asked, options)

    def run(report: Callable[[int, int, str], None]) -> tuple[int, int]:
        if found.planned and not hub_runs(directory):
            raise Unreachable(f"no hub runs for {directory}: start `fleetcast hub`, which makes the changes, and apply again")
        done = apply(fleet, found, options, report=lambda one: report(one.number, one.of, one.text))
        return done.revision, done.changes

    return blueprint.as_row(fleet, found), Difference(run, fleet.store.close)


def _over_the_api(
    hub: "HubClient", file: Path | None, revision: int | None, insisted: Mapping[str, bool]
) -> tuple[dict[str, Any], Difference]:
    text, name = (contents(file), _name(file)) if file is not None else (None, None)
    row = hub.blueprint_diff(text, revision=revision, name=name, **insisted)
    seen = str(row.pop("seen"))
    again = revision if text is not None or revision is not None else row["revision_in_force"]

    def run(report: Callable[[int, int, str], None]) -> tuple[int, int]:
        told: Callable[[Mapping[str, Any]], None] = lambda one: report(one["number"], one["of"], one["text"])  # noqa: E731
        done = hub.apply_blueprint(text, revision=again, name=name, seen=seen, report=told, **insisted)
        return int(done["revision"]), int(done["changes"])

    return row, Difference(run, lambda: None)


def _printing(run: Callable[[], T]) -> T:
    try:
        return run()
    except Refused as refused:
        lines: tuple[str, ...] = getattr(refused, "lines", ())
        if len(lines) > 1:
            for line in lines[:MISTAKES_SHOWN]:
                click.echo(plain(line), err=True)
        raise


def show_plan(found: Mapping[str, Any], *, err: bool) -> None:
    """Print a difference for a person."""
    changes, moved = found["changes"], found["moved"]
    for row in changes[:CHANGES_SHOWN]:
        click.echo(plain(f"{SIGNS.get(row['kind'], '~')} {row['text']}"), err=err)
        if row["changed_by"]:
            click.echo(plain(f"    changed since the blueprint by {row['changed_by']}"), err=err)
        if row["held"]:
            click.echo(plain(f"    held: {row['held']}"), err=err)
    if len(changes) > CHANGES_SHOWN:
        click.echo(f"... and {len(changes) - CHANGES_SHOWN} more; --json has all of them", err=err)
    for group in moved:
        has_one = group["nodes"] == 1
        goes = f"{counted(group['nodes'], 'node')} {'goes' if has_one else 'go'} from {group['from'] or 'no release'} to {group['to']}"
        unfit = f"; {counted(group['unfit'], 'node')} cannot take it" if group["unfit"] else ""
        fetches = f"{'fetches' if has_one else 'fetch'} {counted(group['bytes'], 'byte')}"
        click.echo(plain(f"{group['model']}: {goes}, and {fetches}{unfit}"), err=err)
    for sentence in found["terms"][:CHANGES_SHOWN]:
        click.echo(plain(f"  not applied: terms of {sentence}"), err=err)
    for note in found["notes"]:
        click.echo(plain(f"note: {note}"), err=True)
    if changes:
        nodes = sum(group["nodes"] for group in moved)
        click.echo(
            f"{counted(len(changes), 'change')}, {counted(nodes, 'node')} moved, {counted(found['bytes'], 'byte')} to fetch.", err=err
        )
    elif found["terms"]:
        click.echo("Nothing will be changed: the terms above count from the next release on.", err=err)
    else:
        click.echo("There is no difference.", err=err)
