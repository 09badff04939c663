"""`fleetcast hub`: run the hub."""

import gc
import json
import logging
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click
import structlog

from fleetcast.log_rate_limit import limited
from fleetcast.mqtt_connection import BrokerUrl
from fleetcast.private_files import close_to_others
from hub.cli.console import link
from hub.cli.key_files import Passphrases, key_passphrases_option
from hub.cli.options import actor, database_url, passphrase_option
from hub.settings import HubSettings, load
from hub.signing.key_places import ONLINE, present, promote, signer_of, stem_of
from hub.signing.keys import load_signer
from schemas.errors import FleetcastError

if TYPE_CHECKING:
    from hub.web.server import Server

LOOK_SECONDS = 0.1
FOR_EVER_SECONDS = 10 * 365 * 86_400.0


@click.command("hub")
@click.argument("directory", type=click.Path(path_type=Path, file_okay=False), envvar="FLEETCAST_DIR")
@click.option("--broker", "broker_url", default=None, help="URL of the broker, mqtt:// or mqtts://. It overrides fleet.toml.")
@click.option("--wait-broker", is_flag=True, help="Start even if the broker does not answer yet.")
@click.option("--json-logs", is_flag=True, help="Log one JSON object per line.")
@passphrase_option
@key_passphrases_option
def serve(
    directory: Path,
    broker_url: str | None,
    wait_broker: bool,
    json_logs: bool,
    passphrase_file: Path | None,
    key_passphrases: tuple[str, ...],
) -> None:
    """Run the hub until SIGTERM or SIGINT.

    \b
    Examples:
      fleetcast hub ./plant
      fleetcast hub ./plant --broker mqtt://10.0.0.5:1883 \\
        --passphrase-file secret.txt
    """
    settings = load(directory)
    changes: dict[str, object] = {"connect_seconds": FOR_EVER_SECONDS} if wait_broker else {}
    if broker_url is not None:
        BrokerUrl.parse(broker_url)
        changes["broker_url"] = broker_url
    settings = settings.model_copy(update=changes)
    passphrases = Passphrases(passphrase_file, key_passphrases)
    opened = {name: passphrases.of(name) for name in (*ONLINE, *(["issuer"] if settings.enrolment_listen else []))}
    for name in ONLINE:
        if present(stem_of(directory, name)) is None:
            promote(stem_of(directory, name))  # A change of keys was interrupted between two renames.
    keys = {name: load_signer(directory / "online" / f"{name}.pem", opened[name]) for name in ONLINE}
    _log(json_logs)
    from hub.service.delivery.announce import Signers  # noqa: PLC0415  # scipy and SQLAlchemy are slow to import; --help does not need them
    from hub.service.loop import READY_NAME, Service  # noqa: PLC0415
    from hub.signing.certificate_issuer import open_authority  # noqa: PLC0415

    sys.setswitchinterval(0.0005)  # the network thread and the loop hand over often: see node/cli/long_running.py
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    authority = open_authority(directory, lambda: opened["issuer"], fleet=settings.fleet) if settings.enrolment_listen else None
    service = Service(
        directory,
        settings,
        signers=Signers(**keys),
        authority=authority,
        load_key=lambda role, keyids: signer_of(stem_of(directory, role), keyids, opened[role]),
    )
    web = _web(directory, settings)
    service.web_url = web.start()
    close_to_others(directory.glob("hub.sqlite*"))  # an earlier version let every user of the machine read them
    ready = directory / READY_NAME
    ready.unlink(missing_ok=True)  # the service holds the folder's lock: whose file this was is gone
    fleet, name = web.fleet, actor()
    link_to: Callable[[str], str] = lambda url: link(fleet, url, name=name)  # noqa: E731
    threading.Thread(target=_print_ready, args=(ready, stop, json_logs, link_to), daemon=True).start()
    gc.collect()
    gc.freeze()  # what the program is made of stays; searched again at every full collection it costs a fourth of taking windows in
    try:
        service.run(stop)
    finally:
        web.stop()


def _web(directory: Path, settings: HubSettings) -> "Server":
    """Return the server of the API, with a connection to the database of its own."""
    from hub.database.store import Store  # noqa: PLC0415
    from hub.operations.opened_fleet import OpenedFleet  # noqa: PLC0415
    from hub.signing.tuf_repository import Repository  # noqa: PLC0415
    from hub.web.server import Server  # noqa: PLC0415

    return Server(OpenedFleet(directory, settings, Store(database_url(directory, settings)), Repository(directory / "trust")))


def _print_ready(ready: Path, stop: threading.Event, as_json: bool, link_to: Callable[[str], str]) -> None:
    """Print one line on stdout as soon as nodes find the hub at its broker."""
    while not stop.wait(LOOK_SECONDS):
        with suppress(OSError, ValueError):  # not there yet; or nobody reads our stdout
            facts = json.loads(ready.read_text())
            click.echo(json.dumps({"event": "hub.ready", **facts}) if as_json else _in_words(facts))
            if facts.get("web_url") and not as_json:  # Logs in JSON are kept and read by others: a link is for who looks now.
                with suppress(FleetcastError):
                    click.echo(f"sign in once, within 15 minutes: {link_to(facts['web_url'])}")
            return


def _in_words(facts: Mapping[str, object]) -> str:
    api = f", its console at {facts['web_url']}, its API at {facts['web_url']}/api/v1" if facts.get("web_url") else ""
    return f"fleet {facts['fleet']} is at {facts['broker_url']}{api}"


def _log(as_json: bool) -> None:
    logging.basicConfig(level=logging.WARNING)
    renderer: structlog.types.Processor = (
        structlog.processors.JSONRenderer() if as_json else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    structlog.configure(
        processors=[
            limited(),
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
