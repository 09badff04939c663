"""`fleetcast-node enroll` and `renew`: become a node of a fleet with a token, and ask for the next certificate now."""

import json
import logging
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import structlog

from fleetcast import disk_room
from fleetcast.toml_text import parse_toml
from node.cli.options import json_option, settings_option
from node.settings import load
from schemas.enrolment import Token
from schemas.errors import Code, Refused

TOKEN_VARIABLE = "FLEETCAST_TOKEN"  # noqa: S105  # its name
TOKEN_BYTES_READ_MAX = 4096  # from stdin


@click.command()
@click.option("--hub", required=True, help="URL at which the hub enrols devices, such as https://hub.example:8443.")
@click.option("--token", required=True, envvar=TOKEN_VARIABLE, help="Token from `fleetcast enroll token`. `-` reads it from stdin.")
@click.option(
    "--data",
    type=click.Path(path_type=Path, file_okay=False),
    default=None,
    help="Folder for what the node keeps. The default is `data` beside the settings.",
)
@settings_option
@json_option
def enroll(hub: str, token: str, data: Path | None, path: Path, as_json: bool) -> None:
    """Enrol this device with a token.

    Afterwards `fleetcast-node run` needs no more settings.

    The key is made on this device and never leaves it. The token names the hub's authority, and every answer is verified before anything is
    kept. If the command is interrupted, run it again with the same token: it continues where it was.

    \b
    Examples:
      fleetcast-node enroll --hub https://hub.example:8443 \\
        --token ft1.K7gNU3sd....
      fleetcast-node enroll --hub https://hub.example:8443 --token - < token \\
        --settings /etc/fleetcast/nodes/gate-17/node.toml \\
        --data /var/lib/fleetcast-node/gate-17
    """
    from node.agent.enrol import enrolment_flow  # noqa: PLC0415
    from node.core.trust.clock import floor_of  # noqa: PLC0415
    from node.enrol import enrolment_client  # noqa: PLC0415  # half a second of imports that --help does not need
    from node.storage.store import NodeStore  # noqa: PLC0415

    enrolment_client.check_url(hub)
    parsed = Token.parse(sys.stdin.read(TOKEN_BYTES_READ_MAX) if token == "-" else token)  # noqa: S105
    _log_to_stderr()
    with _reported_errors(path):
        own = parse_toml(path.read_bytes()) if path.exists() else {}
        folder = _data_folder(path, own, data)
        member = enrolment_flow.enrol(folder, hub=hub, token=parsed, site_id=own.get("id"))
        proved = enrolment_flow.take_trust(folder, member)
        store = NodeStore(folder / "node.sqlite")
        store.raise_fact("clock_floor", max(member.kept.at, floor_of(datetime.fromtimestamp(proved, UTC))))
        store.close()
        _name_data(path, own, folder)
    settings = load(path)
    _show(
        {
            "node": settings.id,
            "fleet": settings.fleet,
            "broker": settings.broker,
            "cohort": settings.cohort,
            "labels": dict(settings.labels),
            "expires": datetime.fromtimestamp(member.certified.ends, UTC).isoformat(),
            "settings": str(path),
            "data": str(folder),
            "next": f"fleetcast-node run --settings {path}",
        },
        as_json=as_json,
    )


@click.command()
@click.option("--new-key", is_flag=True, help="Make a new device key. The hub still accepts receipts of the present one.")
@settings_option
@json_option
def renew(new_key: bool, path: Path, as_json: bool) -> None:
    """Renew this device's certificate now.

    A running node renews it by itself at half of its life.

    \b
    Examples:
      fleetcast-node renew
      fleetcast-node renew --new-key --settings /etc/fleetcast/node.toml
    """
    from node.agent.enrol import enrolment_flow  # noqa: PLC0415  # half a second of imports that --help does not need

    settings = load(path)
    _log_to_stderr()
    with _reported_errors(path):
        member = enrolment_flow.settle(settings.data)
        if member is None:
            raise Refused(Code.SETTINGS_INVALID, f"{settings.data} holds no enrolment: fleetcast-node enroll --hub ... --token ...")
        renewed = enrolment_flow.renew(settings.data, member, hub=settings.hub or member.kept.hub, new_key=new_key)
        kept = enrolment_flow.keep(settings.data, renewed)
    expires = datetime.fromtimestamp(kept.certified.ends, UTC).isoformat()
    _show(
        {"node": kept.answer.node, "expires": expires, "new_key": kept.identity.public_key != member.identity.public_key}, as_json=as_json
    )


def _data_folder(path: Path, own: Mapping[str, Any], data: Path | None) -> Path:
    data_folder = os.environ.get("FLEETCAST_NODE_DATA") or (path.parent / str(own["data"]) if own.get("data") else None)
    if data_folder is None:
        return data or path.parent / "data"
    if data is not None and data.resolve() != Path(data_folder).resolve():
        raise Refused(Code.SETTINGS_INVALID, f"--data says {data}, and {path} says {data_folder}")
    return Path(data_folder)


def _name_data(path: Path, own: Mapping[str, Any], folder: Path) -> None:
    """Write the one line that `run` needs, before the rest of the file; other settings are in the data folder."""
    if own.get("data"):
        return
    from node.enrol.enrolment_files import write  # noqa: PLC0415  # cryptography is slow to import; --help does not need it

    named = os.path.relpath(folder, path.parent) if folder.resolve().is_relative_to(path.parent.resolve()) else str(folder.resolve())
    text = "# What is not said here is in `enrolment/settings.toml` in the data folder, from the hub.\n" if not path.exists() else ""
    text += f"data = {json.dumps(named)}\n" + (path.read_text() if path.exists() else "")
    write(path, text.encode(), mode=path.stat().st_mode & 0o777 if path.exists() else 0o600)


@contextmanager
def _reported_errors(path: Path) -> Iterator[None]:
    """Report what the disk or a file at the device does wrong, as a sentence."""
    try:
        yield
    except OSError as error:
        raise Refused(disk_room.code_of(error, Code.SETTINGS_INVALID), f"{error.filename or path}: {error.strerror or error}") from None
    except ValueError as error:
        raise Refused(Code.SETTINGS_INVALID, f"{path}: {error}") from None


def _log_to_stderr() -> None:
    """Log warnings to stderr; stdout is for the result."""
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING), logger_factory=structlog.PrintLoggerFactory(sys.stderr)
    )


def _show(row: Mapping[str, Any], *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(dict(row), indent=2))
        return
    width = max(map(len, row))
    for name, value in row.items():
        text = ", ".join(f"{key}={one}" for key, one in value.items()) if isinstance(value, dict) else str(value)
        click.echo(f"{name:<{width}}  {text or '-'}")
