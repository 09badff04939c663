"""`fleetcast enroll`: tokens for new devices, the enrolled nodes, and revocation."""

import os
import re
import signal
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import click

from fleetcast.cli.list_choice import list_options
from fleetcast.cli.terminal_text import plain
from hub.cli.ca import open_authority
from hub.cli.key_values import read_pairs
from hub.cli.options import changes_fleet, dir_option, json_option, node_marks, open_store, opened, passphrase_option, show, show_one
from hub.cli.remote import remote
from hub.database.connection import Database
from hub.database.enrolments import EnrolmentRow, Enrolments
from hub.database.rows import NodeMarks
from hub.operations.replacing import COUNT_MAX, EXPIRES_DAYS_MAX, check_free, make_tokens, numbered, unanswered
from hub.signing.certificate_issuer import LIST_NAME, write_list
from schemas.errors import Code, Refused
from schemas.limits import LABELS_MAX
from schemas.names import check_name

_LABEL = r"[A-Za-z0-9._-]{1,63}"
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}

reload_option = click.option(
    "--reload",
    "pid_file",
    type=click.Path(path_type=Path, dir_okay=False),
    default=None,
    help="File with mosquitto's process id. Mosquitto is signalled to read the new list.",
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def enroll() -> None:
    """Admit devices to the fleet, list them, and revoke them.

    \b
    Examples:
      fleetcast enroll token --node gateway-17 --label site=plant-7
      fleetcast enroll list
      fleetcast enroll revoke gateway-17
    """


@enroll.command()
@changes_fleet
@click.option("--node", required=True, help="Name of the node. With --count, the prefix of the names.")
@click.option("--count", type=click.IntRange(1, COUNT_MAX), default=None, help="Make tokens for NODE-1 to NODE-COUNT.")
@click.option("--label", "labels", multiple=True, metavar="KEY=VALUE", help="Label by which rollouts select the node. Repeatable.")
@click.option("--cohort", default="", help="Cohort whose windows are added up with the node's.")
@click.option("--expires", default="24h", show_default=True, help="Lifetime of the token: 30m, 24h, 7d.")
@click.option("--replace", is_flag=True, help="Replace an enrolled node. Its certificate is revoked when the token is used.")
@dir_option
@json_option
def token(
    node: str, count: int | None, labels: tuple[str, ...], cohort: str, expires: str, replace: bool, directory: Path, as_json: bool
) -> None:
    """Print a token that lets one device enrol under this name, once.

    The first device to use the token becomes the node: handle it like a key. The hub keeps only its digest, so it cannot be shown again.

    \b
    Examples:
      fleetcast enroll token --node gateway-17
      fleetcast enroll token --node gateway --count 20 --label site=plant-7 \\
        --cohort nyc --expires 7d --json
    """
    rows, warnings = _made(directory, node, count, _labels(labels), cohort, _seconds(expires), replaces=replace)
    for sentence in warnings:
        click.echo(f"warning: {plain(sentence)}", err=True)
    if count is None:
        show_one(rows[0], as_json=as_json)
    else:
        show(rows, ["node", "expires", "token"], as_json=as_json, empty="")


def _made(
    directory: Path, node: str, count: int | None, labels: dict[str, str], cohort: str, seconds: int, *, replaces: bool
) -> tuple[Sequence[dict[str, Any]], Sequence[str]]:
    """Return the tokens and what is to be known besides, of a hub that is asked, or of the folder.

    Raises:
        Refused: a name is invalid or taken, or the fleet has no authority.
    """
    if (hub := remote()) is not None:
        if cohort:
            check_name("cohort", cohort)
        given = {"count": count, "labels": labels, "cohort": cohort, "seconds": seconds, "replace": replaces}
        answer = hub.make_enrolment_tokens({"node": check_name("node", node), **{name: one for name, one in given.items() if one}})
        return answer["items"], answer["warnings"]
    fleet, names = opened(directory), numbered(node, count)
    if not replaces:
        check_free(fleet, names)
    return make_tokens(fleet, names, cohort=cohort, labels=labels, seconds=seconds), unanswered(fleet)


@enroll.command("list")
@click.option("--tokens", is_flag=True, help="List unused tokens instead.")
@dir_option
@json_option
@list_options()
def list_(tokens: bool, directory: Path, as_json: bool) -> None:
    """List the enrolled nodes and when their certificates expire.

    \b
    Examples:
      fleetcast enroll list
      fleetcast enroll list --tokens --json
    """
    enrolments = Enrolments(open_store(directory).database)
    if tokens:
        waiting = [
            {
                "node": one.place.node,
                "cohort": one.place.cohort,
                "labels": dict(one.place.labels),
                "made": _time(one.made_at),
                "expires": _time(one.facts.expires_at),
            }
            for one in enrolments.open_tokens()
        ]
        show(waiting, ["node", "cohort", "made", "expires"], as_json=as_json, empty="No token waits to be used.")
        return
    marks = node_marks(directory)
    rows = [_row(one) for one in enrolments.nodes() if not marks.get(one.place.node, NodeMarks()).is_forgotten]
    columns = ["node", "status", "cohort", "enrolled", "renewed", "expires"]
    show(rows, columns, as_json=as_json, empty="No node has been enrolled.")


@enroll.command()
@changes_fleet
@click.argument("name", metavar="NODE")
@reload_option
@dir_option
@passphrase_option
@json_option
def revoke(name: str, pid_file: Path | None, directory: Path, passphrase_file: Path | None, as_json: bool) -> None:
    """Revoke a node.

    The hub ignores the node at once. The broker refuses it once it has read the new list and the node connects again.

    Its unused tokens are withdrawn. NODE may also be the name of another certificate: analytics, or a relay's.

    \b
    Examples:
      fleetcast enroll revoke gateway-17
      fleetcast enroll revoke gateway-17 --reload /run/mosquitto/mosquitto.pid
    """
    revoke_enrolled(directory, name, pid_file, passphrase_file, as_json=as_json)


def revoke_enrolled(
    directory: Path, name: str, pid_file: Path | None, passphrase_file: Path | None, *, as_json: bool, mend: str = ""
) -> None:
    """Revoke all that an enrolled name has, have the broker read the new list where it can be signalled, and print what was done.

    Raises:
        Refused: nothing was ever issued to this name, for which `mend` is what to do; the broker cannot be signalled.
    """
    check_name("node", name)
    revoked = revoke_everything(directory, open_store(directory).database, name, passphrase_file)
    if not revoked.was_enrolled:
        raise Refused(Code.NODE_UNKNOWN, f"no node {name!r} was enrolled, and no certificate was issued to it{mend}")
    if pid_file is not None:
        signal_broker(pid_file)
    show_one(
        {
            "node": name,
            "certificates_revoked": revoked.certificates,
            "tokens_withdrawn": revoked.tokens,
            "list": str(directory / LIST_NAME),
            "broker": "was told to read it" if pid_file is not None else "reads it after a SIGHUP",
        },
        as_json=as_json,
    )


class Revoked(NamedTuple):
    """Hold what was revoked of a name."""

    certificates: int
    tokens: int
    was_enrolled: bool


def revoke_everything(directory: Path, database: Database, name: str, passphrase_file: Path | None) -> Revoked:
    """Revoke all that a name has, and write the broker's list anew where it had anything.

    Raises:
        Refused: the authority's key cannot be opened; the name is revoked all the same.
    """
    enrolments = Enrolments(database)
    withdrawn = enrolments.withdraw_tokens(name)
    certificates = enrolments.revoke(name)  # before anybody is asked for a passphrase
    had = enrolments.node(name) is not None or bool(certificates or withdrawn) or _has(enrolments, name)
    if had:
        write_list(directory, open_authority(directory, passphrase_file), enrolments, now=datetime.now(UTC))
    return Revoked(certificates, withdrawn, had)


def _has(enrolments: Enrolments, name: str) -> bool:
    return any(one.name == name for one in enrolments.certificates(kinds=("client",)))


def signal_broker(pid_file: Path) -> None:
    """Have mosquitto read the list of revoked certificates.

    Raises:
        Refused: it cannot be signalled.
    """
    try:
        os.kill(int(pid_file.read_text()), signal.SIGHUP)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise Refused(Code.SETTINGS_INVALID, f"the node is revoked, but the broker was not signalled: {pid_file}: {reason}") from None


def _seconds(text: str) -> int:
    match = re.fullmatch(r"([1-9]\d{0,5})([smhd])", text)
    seconds = int(match[1]) * _UNITS[match[2]] if match else 0
    if not 0 < seconds <= EXPIRES_DAYS_MAX * 86_400:
        raise click.UsageError(f"--expires {text!r} must look like 30m, 24h or 7d, and be at most {EXPIRES_DAYS_MAX}d")
    return seconds


def _labels(texts: tuple[str, ...]) -> dict[str, str]:
    found = read_pairs("--label", texts)
    for key, value in found.items():
        if not re.fullmatch(_LABEL, key) or not re.fullmatch(_LABEL, value):
            raise click.UsageError(f"--label '{key}={value}' must look like site=plant-7, of letters, digits and . _ -")
    if len(found) > LABELS_MAX:
        raise click.UsageError(f"at most {LABELS_MAX} labels, found {len(found)}")
    return found


def _row(one: EnrolmentRow) -> dict[str, Any]:
    return {
        "node": one.place.node,
        "status": "revoked" if one.standing.revoked_at is not None else "expired" if one.standing.not_after < time.time() else "enrolled",
        "cohort": one.place.cohort,
        "labels": dict(one.place.labels),
        "enrolled": _time(one.enrolled_at),
        "renewed": _time(one.standing.renewed_at),
        "expires": _time(one.standing.not_after),
        "revoked": _time(one.standing.revoked_at) if one.standing.revoked_at is not None else None,
        "serial": one.serial,
    }


def _time(at: int) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat()
