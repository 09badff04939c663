"""`fleetcast watch`: what happens, as it happens."""

import json
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fleetcast.cli.terminal_text import plain
from hub.cli.errors import Ended, Exit
from hub.cli.options import dir_option, json_option, open_store
from hub.cli.remote import remote
from hub.database.rows import EventRow

if TYPE_CHECKING:
    from hub.client.hub_client import HubClient

KINDS = ("node", "receipt", "rollout", "release", "drift", "alert", "refusal", "broker", "hook", "key", "blueprint")
LOOK_SECONDS = 0.3
REMOTE_LOOK_SECONDS = 1.0
PAGE = 1000


@click.command()
@click.option("--history", is_flag=True, help="Print the history, and end.")
@click.option("--since-id", default=None, type=int, help="Begin after the event with this id. The default is the next event.")
@click.option("--kind", "kinds", multiple=True, type=click.Choice(KINDS), help="Show only this kind. Repeatable.")
@click.option("--until", type=click.Choice(KINDS), help="End with exit code 0 at the first event of this kind.")
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

    \b
    Examples:
      fleetcast watch
      fleetcast watch --kind alert --until alert --timeout-seconds 600
      fleetcast watch --history --json
    """
    if (hub := remote()) is not None:
        _watch_remote(hub, history=history, since_id=since_id, kinds=kinds, until=until, timeout_seconds=timeout_seconds, as_json=as_json)
        return
    store = open_store(directory)
    at = since_id if since_id is not None else (0 if history else store.last_event_id())
    deadline = None if timeout_seconds is None else time.monotonic() + timeout_seconds
    while True:
        page = store.events(at, limit=PAGE)
        for event in page:
            at = event.id
            if not kinds or _kind(event) in {*kinds, until}:
                click.echo(_line(event, as_json))
            if _kind(event) == until:
                return
        if len(page) == PAGE:
            continue
        if history:
            break
        if deadline is not None and time.monotonic() >= deadline:
            raise Ended(Exit.TIMEOUT, f"no {until or 'end'} within {timeout_seconds:g} s")
        time.sleep(LOOK_SECONDS)
    if until:
        raise Ended(Exit.TIMEOUT, f"there is no {until} in the history")


def _watch_remote(
    hub: "HubClient",
    *,
    history: bool,
    since_id: int | None,
    kinds: tuple[str, ...],
    until: str | None,
    timeout_seconds: float | None,
    as_json: bool,
) -> None:
    deadline = None if timeout_seconds is None else time.monotonic() + timeout_seconds
    at = since_id if since_id is not None else (0 if history else int(hub.fleet()["last_event"]))
    while True:
        for one in hub.events(at):
            event = EventRow(
                one["id"], int(datetime.fromisoformat(one["at"]).timestamp()), one["kind"], one["text"], one["facts"], one["actor"]
            )
            at = event.id
            if not kinds or _kind(event) in {*kinds, until}:
                click.echo(_line(event, as_json))
            if _kind(event) == until:
                return
        if history:
            break
        if deadline is not None and time.monotonic() >= deadline:
            raise Ended(Exit.TIMEOUT, f"no {until or 'end'} within {timeout_seconds:g} s")
        time.sleep(REMOTE_LOOK_SECONDS)
    if until:
        raise Ended(Exit.TIMEOUT, f"there is no {until} in the history")


def _kind(event: EventRow) -> str:
    return event.kind.partition(".")[0]  # "broker.restarted" is of the kind "broker"


def _line(event: EventRow, as_json: bool) -> str:
    if as_json:
        actor = {"actor": event.actor} if event.actor else {}
        return json.dumps({**event.body, "id": event.id, "at": event.at, "kind": event.kind, "text": event.text, **actor})
    moment = datetime.fromtimestamp(event.at, UTC).strftime("%Y-%m-%d %H:%M:%S")
    return f"{moment}  {event.kind:<8} {plain(event.text)}"
