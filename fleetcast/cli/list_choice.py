"""Let every list be narrowed, ordered and followed alike: `--columns`, `--where`, `--sort` and `--watch`."""

import contextlib
import difflib
import io
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import TYPE_CHECKING, Any, TypeVar

import click

from fleetcast.cli.errors import Ended
from fleetcast.cli.terminal_text import plain
from fleetcast.sentence_end import ended
from schemas.errors import Unreachable

if TYPE_CHECKING:  # pydantic takes a tenth of a second to import, and --help does without
    from schemas.selectors import Requirement

WATCH_SECONDS = 2.0  # between two looks of --watch
_META = "fleetcast.list"

Row = Mapping[str, Any]
AnyRow = TypeVar("AnyRow", bound=Row)


@dataclass(frozen=True, slots=True)
class ListChoice:
    """Hold what the user wants of a list; the default is all of it, as it comes."""

    columns: tuple[str, ...] = ()
    where: "tuple[Requirement, ...]" = ()
    sort: str = ""
    descending: bool = False

    def arrange(self, rows: Sequence[Row], known: Sequence[str] = ()) -> list[int]:
        """Return which of the rows are asked for, in the order that is asked for; rows without a value come last.

        Raises:
            click.UsageError: rows have no such column.
        """
        names = list(dict.fromkeys([*known, *(name for row in rows for name in row)]))
        for name in (*self.columns, *(one.key for one in self.where), *([self.sort] if self.sort else [])):
            _check_column(name, names)
        found = [at for at, row in enumerate(rows) if all(_matches(one, row.get(one.key)) for one in self.where)]
        if not self.sort:
            return found
        with_value = [at for at in found if rows[at].get(self.sort) not in (None, "")]
        without = [at for at in found if rows[at].get(self.sort) in (None, "")]
        return [*sorted(with_value, key=lambda at: _order(rows[at][self.sort]), reverse=self.descending), *without]

    def arranged(self, rows: Sequence[AnyRow]) -> list[AnyRow]:
        """Return the rows that are asked for, in the order that is asked for: for a list that then cuts them to a page.

        Raises:
            click.UsageError: rows have no such column.
        """
        return [rows[at] for at in self.arrange(rows)]


def choice() -> ListChoice:
    """Return what the user of the running command wants of its list."""
    context = click.get_current_context(silent=True)
    found = context.meta.get(_META) if context is not None else None
    return found if isinstance(found, ListChoice) else ListChoice()


def list_options(*, has_where: bool = False) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Give a command that lists the options of every list; with `has_where` it has a --where of its own, about nodes."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(command)
        def listing(*arguments: Any, **options: Any) -> Any:
            context = click.get_current_context()
            follows = options.pop("list_watch") and context.invoked_subcommand is None
            where = "" if has_where else options.pop("list_where") or ""
            sort, columns = options.pop("list_sort") or "", options.pop("list_columns") or ""
            context.meta[_META] = ListChoice(
                columns=tuple(_name(one) for one in columns.split(",") if one.strip()),
                where=_requirements(where),
                sort=_name(sort.removeprefix("-")),
                descending=sort.startswith("-"),
            )
            return _follow(lambda: command(*arguments, **options)) if follows else command(*arguments, **options)

        listed: Callable[..., Any] = listing
        for option in (
            click.option("--watch", "list_watch", is_flag=True, help=f"Show it again every {WATCH_SECONDS:g} s until Ctrl-C."),
            click.option("--sort", "list_sort", metavar="COLUMN", help="Sort by this column; -COLUMN sorts from the greatest down."),
            None
            if has_where
            else click.option(
                "--where", "list_where", metavar="SELECTOR", help="Show only rows that match, such as model=delay,state!=done."
            ),
            click.option("--columns", "list_columns", metavar="A,B", help="Show these columns only; each name that --json has is one."),
        ):
            listed = option(listed) if option is not None else listed
        return listed

    return decorate


def _follow(command: Callable[[], Any]) -> None:
    """Run a list again and again; where nobody watches a screen, print it only when it has changed.

    What was shown last stays where there is no answer for a while: a hub that restarts ends no list that is followed.

    Raises:
        Unreachable: the first look was not answered.
    """
    is_screen, last, is_lost = sys.stdout.isatty(), None, False
    while True:
        try:
            out, err = _printed(command, is_screen=is_screen)
        except Unreachable as error:
            if last is None:
                raise
            if not is_lost:
                click.echo(plain(f"Waiting for an answer: {ended(str(error))} It is shown again when there is one."), err=True)
            is_lost = True
        else:
            if is_screen:
                click.clear()
            elif is_lost:
                click.echo("It answers again.", err=True)
            if is_screen or out != last:
                click.echo(out, nl=False)
            click.echo(err, nl=False, err=True)
            last, is_lost = out, False
        time.sleep(WATCH_SECONDS)


def _printed(command: Callable[[], Any], *, is_screen: bool) -> tuple[str, str]:
    """Return what a list prints, as for the screen if it is for one: what is there is cleared only when something else is to be shown."""
    out, err = _Printed(is_screen=is_screen), _Printed(is_screen=sys.stderr.isatty())
    is_ended = contextlib.suppress(Ended)  # such as "an alarm lasts": the next look may find that it has ended
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), is_ended:
        command()
    return out.getvalue(), err.getvalue()


class _Printed(io.StringIO):
    """Keep what is printed, in the form that it has where it is to be shown."""

    def __init__(self, *, is_screen: bool) -> None:
        super().__init__()
        self._is_screen = is_screen

    def isatty(self) -> bool:
        """Return whether it is for a terminal."""
        return self._is_screen


def _requirements(where: str) -> "tuple[Requirement, ...]":
    if not where:
        return ()
    from schemas.selectors import Requirement, parse  # noqa: PLC0415

    return tuple(Requirement(_name(one.key), one.operator, one.values) for one in parse(where))


def _name(column: str) -> str:
    """Take a column as its head is printed, or as JSON has it."""
    return column.strip().replace(" ", "_").replace("-", "_")


def _check_column(name: str, known: Sequence[str]) -> None:
    if not known or name in known:
        return
    near = difflib.get_close_matches(name, known, n=1)
    meant = f" Did you mean {near[0]}?" if near else ""
    raise click.UsageError(f"there is no column {name!r}.{meant} There are: {', '.join(known)}.")


def _matches(requirement: "Requirement", value: Any) -> bool:
    from schemas.selectors import fulfils  # noqa: PLC0415

    if isinstance(value, list | tuple) and value and requirement.operator in ("in", "notin"):
        among = any(_text(one) in requirement.values for one in value)
        return among if requirement.operator == "in" else not among
    return fulfils(requirement, None if value in (None, "", [], ()) else _text(value))


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _order(value: Any) -> tuple[int, float, str]:
    if isinstance(value, int | float):
        return 0, float(value), ""
    return 1, 0.0, str(value).casefold()
