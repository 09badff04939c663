"""`fleetcast hooks`: receivers of alerts, what waits for each, and whether a webhook works."""

import time
from pathlib import Path
from typing import Any

import click

from fleetcast.cli.list_choice import list_options
from hub.alerts.receivers import OnDrift, Webhook
from hub.alerts.webhooks import Poster, read_secret
from hub.cli.options import actor, dir_option, json_option, open_store, show, show_one
from hub.cli.time_arguments import iso, written
from hub.database.outbox import Outbox, Receiver
from hub.settings import HubSettings, load
from schemas.analytics_messages import Alert
from schemas.errors import Code, Refused

COLUMNS = ["receiver", "to", "waiting", "delivered", "given_up", "last", "error"]


@click.command()
@click.option("--test", "name", metavar="NAME", help="Send an alert of kind `test` to this webhook now.")
@dir_option
@json_option
@list_options()
def hooks(name: str | None, directory: Path, as_json: bool) -> None:
    """List webhooks and hooks on drift, with their deliveries.

    \b
    Examples:
      fleetcast hooks
      fleetcast hooks --test pager
    """
    settings = load(directory)
    if name is not None:
        show_one(_test(settings, name), as_json=as_json)
        return
    known = {one.name: one for one in Outbox(open_store(directory).database).receivers()}
    rows = [_row(one, known.get(one.receiver)) for one in settings.webhooks]
    rows += [_row(one, known.get(one.receiver)) for one in settings.on_drift]
    table = [{**row, "last": written(row["last_at"])} for row in rows]
    show(rows, COLUMNS, as_json=as_json, empty="fleet.toml sets no webhooks and no on_drift hooks.", in_words=table)


def _row(one: Webhook | OnDrift, known: Receiver | None) -> dict[str, Any]:
    return {
        "receiver": one.receiver,
        "to": one.url or " ".join(one.command if isinstance(one, OnDrift) else ()),
        "waiting": known.waiting if known else 0,
        "delivered": known.delivered if known else 0,
        "given_up": known.given_up if known else 0,
        "last": iso(known.last_at) if known else None,
        "last_at": known.last_at if known else None,
        "error": (known.error if known else "") or None,
    }


def _test(settings: HubSettings, name: str) -> dict[str, Any]:
    """Send one, from here.

    Raises:
        Refused: there is no such webhook, or its secret cannot be read.
        Unreachable: it did not confirm.
    """
    found = [one for one in settings.webhooks if one.receiver == f"webhook {name}"]
    if not found:
        known = ", ".join(one.receiver.removeprefix("webhook ") for one in settings.webhooks) or "none"
        raise Refused(Code.SETTINGS_INVALID, f"fleet.toml sets no webhook {name!r}; there are {known}")
    (webhook,) = found
    now = int(time.time())
    alert = Alert(kind="test", at=now, text=f"a test of the webhook of fleet {settings.fleet}; nothing is wrong", actor=actor())
    poster = Poster(webhook.url, read_secret(Path(webhook.secret_file)), ca_file=webhook.ca_file, timeout_seconds=webhook.timeout_seconds)
    began = time.monotonic()
    poster.post(f"{settings.fleet}.test.{now}", alert.model_dump_json(exclude_none=True).encode(), timestamp=now)
    return {
        "receiver": webhook.receiver,
        "url": webhook.url,
        "state": "confirmed",
        "milliseconds": round(1000 * (time.monotonic() - began)),
    }
