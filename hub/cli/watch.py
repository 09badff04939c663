"""`fleetcast watch`: what happens, as it happens."""

import json
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fleetcast.cli.terminal_text import plain
from hub.cli.errors import Ended, Exit
from hub.cli.options import dir_option, json_option, open_store
from hub.cli.patience import Patience
from hub.cli.remote import remote
from hub.database.rows import EventRow
from schemas.errors import Unreachable

if TYPE_CHECKING:
    from hub.client.hub_client import HubClient
    from hub.database.store import Store

KINDS = ("node", "receipt", "rollout", "release", "drift", "alert", "refusal", "broker", "hook", "key", "blueprint")
LOOK_SECONDS = 0.3
REMOTE_LOOK_SECONDS = 1.0
PAGE = 1000


@click.command()
@click.option("--history", is_flag=True, help="Print the history, and end.")
@click.option("--since-id", default=None, type=int, help="Begin after the event with this id. The default is the next event.")
@click.option("--kind", "kinds", multiple=True, type=click.Choice(KINDS), metavar="KIND", help="Show only this kind. Repeatable.")
@click.option("--until", type=click.Choice(KINDS), metavar="KIND", help="End with exit code 0 at the first event of this kind.")
@click.option("--timeout-seconds", type=click.FloatRange(0), help="End with exit code 10 after this time.")
@dir_option
@json_option
def watch(
    history: bool,
    since_id: int | None,
    kinds: tuple[str, ...],
    until: str | None,
    timeout_seconds: float | None,
    directory: Path,
    as_json: bool,
) -> None:
    """Follow events: receipts, rollouts, drift, alerts, refusals.

    KIND is one of node, receipt, rollout, release, drift, alert, refusal, broker, hook, key and blueprint.

    \b
    Examples:
      fleetcast watch
      fleetcast watch --kind alert --until alert --timeout-seconds 600
      fleetcast watch --history --json
    """
    last: Callable[[], int]
    after: Callable[[int], Iterator[EventRow]]
    if (hub := remote()) is not None:
        last, after, look_seconds = lambda: int(hub.fleet()["last_event"]), partial(_asked, hub), REMOTE_LOOK_SECONDS
    else:
        store = open_store(directory)
        last, after, look_seconds = store.last_event_id, partial(_read, store), LOOK_SECONDS
    at = since_id if since_id is not None else (0 if history else last())
    deadline = None if timeout_seconds is None else time.monotonic() + timeout_seconds
    patience = Patience(deadline, was_there=False, meanwhile="No event is missed: it goes on behind the last one.")
    while True:
        try:
            for event in after(at):
                at = event.id
                patience.answered()  # Before the event is printed, with which the command may end.
                if not kinds or _kind(event) in {*kinds, until}:
                    click.echo(_line(event, as_json))
                if _kind(event) == until:
                    return
            patience.answered()
        except Unreachable as error:
            if history:
                raise
            patience.lost(error)
        if history:
            break
        if deadline is not None and time.monotonic() >= deadline:
            why = f": there is no answer ({patience.reason})" if patience.reason else ""
            raise Ended(Exit.TIMEOUT, f"no {until or 'end'} within {timeout_seconds:g} s{why}")
        time.sleep(look_seconds)
    if until:
        raise Ended(Exit.TIMEOUT, f"there is no {until} in the history")


def _read(store: "Store", at: int) -> Iterator[EventRow]:
    """Yield the events behind an id, of a fleet's folder."""
    while True:
        page = store.events(at, limit=PAGE)
        yield from page
        if len(page) < PAGE:
            return
        at = page[-1].id


def _asked(hub: "HubClient", at: int) -> Iterator[EventRow]:
    """Yield the events behind an id, of a hub that is asked over its API."""
    for one in hub.events(at):
        moment = int(datetime.fromisoformat(one["at"]).timestamp())
        yield EventRow(one["id"], moment, one["kind"], one["text"], one["facts"], one["actor"])


def _kind(event: EventRow) -> str:
    return event.kind.partition(".")[0]  # "broker.restarted" is of the kind "broker"


def _line(event: EventRow, as_json: bool) -> str:
    if as_json:
        actor = {"actor": event.actor} if event.actor else {}
        return json.dumps({**event.body, "id": event.id, "at": event.at, "kind": event.kind, "text": event.text, **actor})
    moment = datetime.fromtimestamp(event.at, UTC).strftime("%Y-%m-%d %H:%M:%S")
    return f"{moment}  {event.kind:<8} {plain(event.text)}"
