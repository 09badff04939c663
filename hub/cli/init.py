"""`fleetcast init`: a new fleet's folder, whole or not at all."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

import click

from fleetcast import disk_room, durable, interrupts
from fleetcast.mqtt_connection import BrokerUrl
from hub.cli.ca import issue_hub, make_authority
from hub.cli.errors import Ended, Exit
from hub.cli.options import json_option, passphrase, passphrase_option, room_for_database, show_one
from hub.database.connection import parsed
from hub.database.enrolments import Enrolments
from hub.database.place import place_of
from hub.database.postgresql import shown
from hub.database.store import Store
from hub.settings import SETTINGS_NAME
from hub.signing.certificate_authority import Authority
from hub.signing.certificate_issuer import ISSUER_KEY
from hub.signing.keys import create_key, load_p256, load_signer
from hub.signing.metadata_database import holds_documents, move_to_database
from hub.signing.tuf_repository import Repository
from schemas.errors import Code, Refused
from schemas.names import check_name
from schemas.topics import access_list, consumer_access_list

PARTIAL = ".partial"


@click.command()
@click.argument("directory", type=click.Path(path_type=Path, file_okay=False))
@click.option("--fleet", required=True, help="Name of the fleet: the topic level after fleetcast/v1.")
@click.option("--root-keys", default=3, show_default=True, type=click.IntRange(1, 16), help="Number of root keys.")
@click.option(
    "--threshold", default=2, show_default=True, type=click.IntRange(1, 16), help="Number of root keys that must sign a new root."
)
@click.option("--model", "models", multiple=True, help="Model that the team key may publish. Repeatable.")
@click.option(
    "--broker", "broker_url", default="", help="URL of the broker, mqtt:// or mqtts://. Without it the hub starts its own broker."
)
@click.option("--hub-url", default="", help="URL at which devices reach this hub to enrol, such as https://hub.example:8443.")
@click.option(
    "--database-url",
    default="",
    help="URL of a PostgreSQL database for the hub, without a password. Without it the database is a file in the folder.",
)
@click.option(
    "--database-password-file",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="File whose first line is the password for --database-url.",
)
@click.option(
    "--blocks-url",
    default="",
    help="Object store for releases' blocks, such as s3://bucket/folder. Without it they are in the folder.",
)
@click.option("--blocks-endpoint-url", default="", help="URL of an object store that is not Amazon's.")
@click.option(
    "--cohort-nodes-min",
    default=20,
    show_default=True,
    type=click.IntRange(1),
    help="Show and test no interval with fewer nodes than this.",
)
@passphrase_option
@json_option
def init(
    directory: Path,
    fleet: str,
    root_keys: int,
    threshold: int,
    models: tuple[str, ...],
    broker_url: str,
    hub_url: str,
    database_url: str,
    database_password_file: Path | None,
    blocks_url: str,
    blocks_endpoint_url: str,
    cohort_nodes_min: int,
    passphrase_file: Path | None,
    as_json: bool,
) -> None:
    """Create a fleet.

    This makes its keys, its signed trust root, its certificate authority, its settings and the broker's access list.

    \b
    Examples:
      fleetcast init ./plant --fleet plant --model delay
      fleetcast init /var/lib/fleetcast-hub --fleet plant --root-keys 5 \\
        --threshold 3
      fleetcast init ./plant --fleet plant \\
        --broker mqtts://broker.example:8883 --hub-url https://hub.example:8443
      fleetcast init ./plant --fleet plant \\
        --database-url postgresql://hub@db.example/plant
      fleetcast init ./plant --fleet plant --blocks-url s3://models/plant
    """
    check_name("fleet", fleet)
    models = tuple(dict.fromkeys(check_name("model", model) for model in models))
    if threshold > root_keys:
        raise click.UsageError(f"--threshold {threshold} needs at least as many --root-keys, found {root_keys}")
    if broker_url:
        BrokerUrl.parse(broker_url)
    settings = [f'fleet = "{fleet}"', f"cohort_nodes_min = {cohort_nodes_min}"]
    if broker_url:
        settings.append(f"broker_url = {json.dumps(broker_url)}")
        if BrokerUrl.parse(broker_url).is_anonymous:
            settings.append("client_id_has_fleet = true")
    if hub_url:
        settings += [f'enrolment_listen = "0.0.0.0:{_port(hub_url)}"', f"enrolment_url = {json.dumps(hub_url)}"]
    if database_url:
        settings.append(f"database_url = {json.dumps(database_url)}")
    if database_password_file is not None:
        settings.append(f"database_password_file = {json.dumps(str(database_password_file.resolve()))}")
    settings += _blocks_settings(blocks_url, blocks_endpoint_url, fleet)
    if directory.exists() and any(entry.name != PARTIAL for entry in directory.iterdir()):
        raise Ended(Exit.CONFLICT, f"{directory} is not empty: give a new folder")
    place = _place(database_url, database_password_file)
    secret = passphrase(passphrase_file, confirm=True)
    with whole(directory.resolve()) as partial:
        make(partial, fleet, root_keys, threshold, models, settings, secret, place)
        if broker_url and BrokerUrl.parse(broker_url).tls:
            authority = Authority(partial, load_p256(partial / ISSUER_KEY, secret), fleet=fleet)
            store = Store(place or place_of(partial, ""))
            issue_hub(partial, authority, Enrolments(store.database))
            store.close()
    if place is not None:
        move_to_database(directory / "trust", place)
    show_one(
        {
            "fleet": fleet,
            "directory": str(directory),
            "root_keys": f"{threshold} of {root_keys}",
            "models": list(models),
            "broker": broker_url or "embedded, on loopback",
            "database": _shown(database_url) if database_url else "a file in the folder",
            "blocks": blocks_url or "in the folder",
            "devices_enrol_at": hub_url or "nowhere: no --hub-url was given",
            "pin_on_nodes": str(directory / "root.json"),
            "take_offline": str(directory / "keys"),
        },
        as_json=as_json,
    )


@contextmanager
def whole(directory: Path) -> Iterator[Path]:
    """Yield a folder to fill: durable and in its place when the block ends well, removed when it does not.

    Raises:
        Refused: the disk is full, or does not let us.
    """
    ancestors = [folder for folder in directory.parents if not folder.exists()]  # the nearest first
    there = directory.exists()  # a mounted volume, or the shell's own folder: not to be replaced, so it is filled from inside
    partial = directory / PARTIAL if there else directory.with_name(f".{directory.name}{PARTIAL}")
    placed: list[Path] = []
    try:
        shutil.rmtree(partial, ignore_errors=True)
        yield partial
        for path in (*partial.rglob("*"), partial):
            durable.sync(path)
        with interrupts.held():
            if there:
                # The settings last: without them nothing takes the folder for a fleet's.
                for entry in sorted(partial.iterdir(), key=lambda one: one.name == SETTINGS_NAME):
                    placed.append(entry.rename(directory / entry.name))
                partial.rmdir()
            else:
                placed.append(partial.rename(directory))
            durable.sync(directory if there else directory.parent)
    except BaseException as error:
        for path in (partial, *placed):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        with suppress(OSError):
            for folder in ancestors:
                folder.rmdir()
        if isinstance(error, OSError):
            raise Refused(disk_room.code_of(error, Code.SETTINGS_INVALID), f"{directory} could not be made: {error.strerror}") from error
        raise


def make(
    directory: Path,
    fleet: str,
    root_keys: int,
    threshold: int,
    models: tuple[str, ...],
    settings: list[str],
    secret: bytes,
    place: str | None,
) -> None:
    """Make a fleet in a new folder: keys, signed trust, settings, database, certificate authority."""
    for folder in ("keys", "online", "blocks", "broker"):
        durable.make_folder(directory / folder, mode=0o700, parents=True)
    names = [*(f"keys/root-{number}" for number in range(1, root_keys + 1)), "keys/targets", "keys/team"]
    names += ["online/snapshot", "online/timestamp", "online/rollouts"]
    for name in names:
        create_key(directory / f"{name}.pem", secret)
    signers = {name: load_signer(directory / f"{name}.pem", secret) for name in names}
    repository = Repository.create(
        directory / "trust",
        root_signers=[signers[name] for name in names[:root_keys]],
        threshold=threshold,
        targets=signers["keys/targets"],
        snapshot=signers["online/snapshot"],
        timestamp=signers["online/timestamp"],
        rollouts=signers["online/rollouts"],
        team=signers["keys/team"].public_key,
        models=models,
        now=datetime.now(UTC),
    )
    public = {
        directory / "root.json": repository.root(),  # devices get it
        directory / "broker" / "acl": access_list(fleet).encode(),  # the broker's user reads it
        directory / "broker" / "acl-consumers": consumer_access_list(fleet).encode(),
    }
    for path, data in public.items():
        path.write_bytes(data)
        path.chmod(0o644)
    (directory / SETTINGS_NAME).write_text("\n".join(settings) + "\n")
    store = Store(place or place_of(directory, ""))
    with room_for_database(directory):
        store.create()
    store.close()
    make_authority(directory, fleet, secret)


def _place(url: str, password_file: Path | None) -> str | None:
    """Return where the database is, which answers and has nothing of another fleet; None for a file in the folder.

    Raises:
        Ended: something is in it.
        Refused: no database is reached so, or it has the schema of another version.
        Unreachable: it does not answer.
    """
    if not url:
        if password_file is not None:
            raise click.UsageError("--database-password-file needs --database-url")
        return None
    at = parsed(url)
    if at.password or "password" in at.query:
        raise click.UsageError(
            "--database-url holds a password, which everybody on this machine can see: give --database-password-file,"
            " or set PGPASSWORD or PGPASSFILE for every command and the hub"
        )
    place = place_of(Path(), url, str(password_file or ""))
    store = Store(place)
    try:
        store.open()
        if store.last_event_id() or store.count_nodes() or holds_documents(store.database):
            raise Ended(Exit.CONFLICT, f"the database {_shown(url)} has a fleet in it: give a new one")
    finally:
        store.close()
    return place


def _blocks_settings(url: str, endpoint_url: str, fleet: str) -> list[str]:
    """Return the settings of an object store, which answers; none for a folder.

    Raises:
        Refused: the URL names no bucket, or obstore is not installed.
        Unreachable: it does not answer, or has no such bucket.
    """
    if not url:
        if endpoint_url:
            raise click.UsageError("--blocks-endpoint-url needs --blocks-url")
        return []
    from hub.publish.object_store import ObjectStore  # noqa: PLC0415  # with an extra

    ObjectStore(url, fleet, endpoint_url=endpoint_url).check()
    found = [f"blocks_url = {json.dumps(url)}"]
    return [*found, f"blocks_endpoint_url = {json.dumps(endpoint_url)}"] if endpoint_url else found


def _shown(url: str) -> str:
    return shown(parsed(url))


def _port(hub_url: str) -> int:
    try:
        found = urlsplit(hub_url)
        port = found.port
    except ValueError as error:
        raise click.UsageError(f"--hub-url {hub_url!r}: {error}") from None
    if found.scheme != "https" or not found.hostname or found.path not in {"", "/"}:
        raise click.UsageError(f"--hub-url {hub_url!r} must look like https://hub.example:8443")
    return port or 443
