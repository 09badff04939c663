"""`fleetcast hub`: run the hub."""

import gc
import json
import logging
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click
import structlog
from securesystemslib.signer import Signer

from fleetcast.log_rate_limit import limited
from fleetcast.mqtt_connection import BrokerUrl
from fleetcast.private_files import close_to_others
from hub.cli.console import link
from hub.cli.key_files import Passphrases, key_passphrases_option
from hub.cli.options import actor, database_url, passphrase_option
from hub.settings import NAME_PATTERN, ROLES, HubSettings, load
from hub.signing.key_places import ONLINE, clear_parts, present, promote, signer_of, stem_of
from hub.signing.keys import load_signer
from schemas.errors import FleetcastError

if TYPE_CHECKING:
    from hub.database.leadership import Leadership
    from hub.service.delivery.online_keys import LoadKey
    from hub.web.server import Server

LOOK_SECONDS = 0.1
FOR_EVER_SECONDS = 10 * 365 * 86_400.0


@click.command("hub")
@click.argument("directory", type=click.Path(path_type=Path, file_okay=False), envvar="FLEETCAST_DIR")
@click.option("--broker", "broker_url", default=None, help="URL of the broker, mqtt:// or mqtts://. It overrides fleet.toml.")
@click.option("--wait-broker", is_flag=True, help="Start even if the broker does not answer yet.")
@click.option(
    "--roles",
    default=None,
    metavar="ROLES",
    help="Roles of this process, by commas: some of ingest,controller,blocks,web. The default is all of them, or what fleet.toml names.",
)
@click.option("--shard", default=None, metavar="I/K", help="With ingest: this process's part of the nodes, such as 2/3.")
@click.option("--name", default=None, help="Name of this process among those of the hub.")
@click.option("--json-logs", is_flag=True, help="Log one JSON object per line.")
@passphrase_option
@key_passphrases_option
def serve(
    directory: Path,
    broker_url: str | None,
    wait_broker: bool,
    roles: str | None,
    shard: str | None,
    name: str | None,
    json_logs: bool,
    passphrase_file: Path | None,
    key_passphrases: tuple[str, ...],
) -> None:
    """Run the hub until SIGTERM or SIGINT.

    One process does all. On PostgreSQL several may run: one leads and others
    stand by, or each has some of the roles (docs/scaling.md).

    \b
    Examples:
      fleetcast hub ./plant
      fleetcast hub ./plant --broker mqtt://10.0.0.5:1883 \\
        --passphrase-file secret.txt
      fleetcast hub ./plant --roles ingest --shard 1/2
      fleetcast hub ./plant --roles controller,web
    """
    settings = _settings(directory, broker_url, wait_broker=wait_broker, roles=roles, shard=shard, name=name)
    passphrases = Passphrases(passphrase_file, key_passphrases)
    needed = [*(ONLINE if "controller" in settings.roles else ()), *(["issuer"] if _enrols(settings) else [])]
    opened = {one: passphrases.of(one) for one in needed}
    keys = _online_keys(directory, opened) if "controller" in settings.roles else {}
    _log(json_logs)
    from hub.service.delivery.announce import Signers  # noqa: PLC0415  # scipy and SQLAlchemy are slow to import; --help does not need them
    from hub.service.loop import Service, ready_name  # noqa: PLC0415
    from hub.service.steady_clock import steady_clock_of  # noqa: PLC0415
    from hub.signing.certificate_issuer import open_authority  # noqa: PLC0415

    sys.setswitchinterval(0.0005)  # the network thread and the loop hand over often: see node/cli/long_running.py
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    load_key: LoadKey = lambda role, keyids: signer_of(stem_of(directory, role), keyids, opened[role])  # noqa: E731
    leadership = None
    if settings.is_on_server:
        place = _shared_database(directory, settings)
        if "controller" in settings.roles:
            leadership = _lead(place, directory, settings, stop, keys, load_key)
            if leadership is None:
                return
    authority = open_authority(directory, lambda: opened["issuer"], fleet=settings.fleet) if _enrols(settings) else None
    service = Service(
        directory,
        settings,
        signers=Signers(**keys) if keys else None,
        authority=authority,
        load_key=load_key if keys else None,
        leadership=leadership,
        wall=steady_clock_of(directory),
    )
    web = _web(directory, settings) if "web" in settings.roles else None
    service.web_url = web.start() if web is not None else None
    close_to_others(directory.glob("hub.sqlite*"))  # an earlier version let every user of the machine read them
    ready = directory / ready_name(settings)
    ready.unlink(missing_ok=True)  # the service holds the folder's lock: whose file this was is gone
    fleet, name = web.fleet if web is not None else None, actor()
    link_to: Callable[[str], str] = lambda url: link(fleet, url, name=name) if fleet is not None else url  # noqa: E731
    threading.Thread(target=_print_ready, args=(ready, stop, json_logs, link_to), daemon=True).start()
    gc.collect()
    gc.freeze()  # what the program is made of stays; searched again at every full collection it costs a fourth of taking windows in
    try:
        service.run(stop)
    finally:
        if web is not None:
            web.stop()
        if leadership is not None:
            leadership.resign()


def _settings(
    directory: Path, broker_url: str | None, *, wait_broker: bool, roles: str | None, shard: str | None, name: str | None
) -> HubSettings:
    """Return the folder's settings with what the command line says.

    Raises:
        Refused: SETTINGS_INVALID: these roles cannot run beside others so.
    """
    settings = load(directory)
    changes: dict[str, object] = {"connect_seconds": FOR_EVER_SECONDS} if wait_broker else {}
    if broker_url is not None:
        BrokerUrl.parse(broker_url)
        changes["broker_url"] = broker_url
    given = {"roles": roles.split(",") if roles is not None else None, "shard": shard, "name": name}
    for field, value in given.items():
        if value is not None:
            changes[field] = value if isinstance(value, str) else tuple(one.strip() for one in value)
    unknown = sorted(set(changes.get("roles", ())) - set(ROLES))  # type: ignore[call-overload]
    if unknown or len(set(changes.get("roles", ROLES))) != len(changes.get("roles", ROLES)):  # type: ignore[call-overload,arg-type]
        raise click.UsageError(f"--roles {roles!r} must be some of {','.join(ROLES)}, each once")
    if name is not None and not re.fullmatch(NAME_PATTERN, name):
        raise click.UsageError(f"--name {name!r} must be lower-case letters, digits, dots and hyphens, at most 48")
    settings = settings.model_copy(update=changes)
    settings.check_roles()
    return settings


def _enrols(settings: HubSettings) -> bool:
    return bool(settings.enrolment_listen) and "web" in settings.roles


def _online_keys(directory: Path, opened: Mapping[str, bytes]) -> dict[str, Signer]:
    clear_parts(directory)
    for name in ONLINE:
        if present(stem_of(directory, name)) is None:
            promote(stem_of(directory, name))  # A change of keys was interrupted between two renames.
    return {name: load_signer(directory / "online" / f"{name}.pem", opened[name]) for name in ONLINE}


def _shared_database(directory: Path, settings: HubSettings) -> str:
    """Return where the database is that processes share, with its tables, and with the fleet's signed metadata."""
    from hub.database.place import MARKER  # noqa: PLC0415
    from hub.database.store import Store  # noqa: PLC0415
    from hub.service.folder_lock import locked  # noqa: PLC0415
    from hub.signing.metadata_database import move_to_database  # noqa: PLC0415

    place = database_url(directory, settings)
    store = Store(place)
    store.create()
    store.close()
    if not (directory / "trust" / MARKER).exists():
        with locked(directory):  # A hub of an earlier version may run here, which reads the folder.
            move_to_database(directory / "trust", place)
    return place


def _lead(
    place: str, directory: Path, settings: HubSettings, stop: threading.Event, keys: Mapping[str, Signer], load_key: "LoadKey"
) -> "Leadership | None":
    from hub.service.delivery.online_keys import StandbyKeys  # noqa: PLC0415
    from hub.service.roles.standby import lead  # noqa: PLC0415
    from hub.signing.tuf_repository import Repository  # noqa: PLC0415

    mine = StandbyKeys(Repository(directory / "trust"), keys, load_key, monotonic=time.monotonic)
    return lead(place, directory, settings, stop, keys=mine)


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
