"""`fleetcast ca`: the fleet's certificate authority, and what it issues to brokers, hubs and consumers."""

from datetime import UTC, datetime
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import click
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from fleetcast import durable
from fleetcast.cli.list_choice import list_options
from hub.cli.errors import Ended, Exit
from hub.cli.options import changes_fleet, dir_option, json_option, open_store, passphrase, passphrase_option, show, show_one
from hub.core.publish.metadata_expiry import severity_of
from hub.database.enrolments import CertificateRow, Enrolments
from hub.settings import SETTINGS_NAME, load
from hub.signing import certificate_authority as x
from hub.signing import certificate_issuer
from hub.signing.certificate_issuer import ISSUER_KEY, LIST_NAME, write_list
from hub.signing.keys import create_key, create_tls_key, load_p256
from hub.signing.metadata_files import write
from schemas.errors import Code, Refused
from schemas.names import check_name

ROOT_KEY = Path("keys") / "ca.pem"
HUB_TLS = {"tls_ca": "ca.crt", "tls_certificate": "tls/hub.crt", "tls_key": "tls/hub.key"}
out_option = click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=None,
    help="Stem of the files STEM.crt and STEM.key. The default is in the fleet's folder.",
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def ca() -> None:
    """Issue certificates to brokers, hubs and consumers.

    Devices get theirs from `fleetcast-node enroll`.

    \b
    Examples:
      fleetcast ca show
      fleetcast ca issue-server broker.example --ip 10.0.0.5
      fleetcast ca issue-client analytics --out ./grafana
    """


def make_authority(directory: Path, fleet: str, secret: bytes) -> None:
    """Make keys and certificates of a new authority, in a fleet's folder.

    Raises:
        Refused: there is one already.
    """
    for path in (ROOT_KEY, ISSUER_KEY):
        if not (directory / path).exists():  # A key from an interrupted attempt is used again: it has no certificate yet.
            create_key(directory / path, secret, "p256")
    root, issuer = (load_p256(directory / path, secret) for path in (ROOT_KEY, ISSUER_KEY))
    x.create(directory, fleet=fleet, root=root, issuer=issuer, now=datetime.now(UTC))


def open_authority(directory: Path, passphrase_file: Path | None) -> x.Authority:
    """Return the fleet's issuer, with its key.

    Raises:
        Refused: there is none, or the passphrase does not open its key.
    """
    return certificate_issuer.open_authority(directory, lambda: passphrase(passphrase_file), fleet=load(directory).fleet)


def issue_hub(directory: Path, authority: x.Authority, enrolments: Enrolments) -> Path:
    """Issue the hub's own certificate for the broker, and name it in its settings."""
    stem = _issue_client(directory / "tls" / "hub", "hub", authority, enrolments)
    settings = directory / SETTINGS_NAME
    text = settings.read_text()
    if not any(line.split("=")[0].strip() in HUB_TLS for line in text.splitlines()):
        lines = [f'{name} = "{value}"' for name, value in HUB_TLS.items()]
        write(settings, (text.rstrip("\n") + "\n" + "\n".join(lines) + "\n").encode(), mode=settings.stat().st_mode & 0o777)
    return stem


@ca.command()
@changes_fleet
@dir_option
@passphrase_option
@json_option
def init(directory: Path, passphrase_file: Path | None, as_json: bool) -> None:
    """Create the certificate authority of a fleet that has none.

    `fleetcast init` creates it with the fleet.

    \b
    Example:
      fleetcast ca init --dir ./plant
    """
    fleet = load(directory).fleet
    if (directory / x.ROOT_NAME).exists():
        raise Ended(Exit.CONFLICT, f"{directory / x.ROOT_NAME} exists already: a fleet has one authority")
    make_authority(directory, fleet, passphrase(passphrase_file))
    show_one({"authority": str(directory / x.ROOT_NAME), "take_offline": str(directory / ROOT_KEY)}, as_json=as_json)


@ca.command("show")
@dir_option
@json_option
@list_options()
def show_(directory: Path, as_json: bool) -> None:
    """List certificates, and when each expires.

    Listed are the authority's own, and those that it issued to brokers, hubs and consumers.

    \b
    Examples:
      fleetcast ca show
      fleetcast ca show --json
    """
    load(directory)
    now = datetime.now(UTC)
    rows = [
        _row(name, "authority", x.load_certificate(directory / name), now)
        for name in (x.ROOT_NAME, x.ISSUER_NAME)
        if (directory / name).exists()
    ]
    for one in Enrolments(open_store(directory).database).certificates(kinds=("server", "client")):
        rows.append(
            {**_row(one.name, one.kind, x509.load_der_x509_certificate(one.certificate), now), "revoked": one.revoked_at is not None}
        )
    columns = ["name", "kind", "expires", "severity", "revoked", "serial"]
    show(rows, columns, as_json=as_json, empty="This fleet has no authority: fleetcast ca init")


@ca.command("issue-server")
@changes_fleet
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@click.option("--ip", "addresses", multiple=True, help="IP address at which clients reach the broker. Repeatable.")
@out_option
@dir_option
@passphrase_option
@json_option
def issue_server(
    names: tuple[str, ...], addresses: tuple[str, ...], out: Path | None, directory: Path, passphrase_file: Path | None, as_json: bool
) -> None:
    """Issue a broker's certificate.

    Each NAME is a host name or an address at which clients reach the broker.

    Without --out the broker's folder is made ready for broker-config/mosquitto.conf: broker/tls/ca.crt, server.crt, server.key and
    revoked.crl. Run it again before the certificate expires; the key stays.

    \b
    Examples:
      fleetcast ca issue-server broker.example --ip 10.0.0.5
      fleetcast ca issue-server site-7.example --out ./site-7/server
    """
    for address in addresses:
        try:
            ip_address(address)
        except ValueError:
            raise click.UsageError(f"--ip {address!r} is not an IP address") from None
    authority, enrolments = open_authority(directory, passphrase_file), Enrolments(open_store(directory).database)
    stem = out or directory / "broker" / "tls" / "server"
    key = _key(stem)
    made = authority.server([*names, *addresses], key, now=datetime.now(UTC))
    _keep(stem, made, authority, enrolments)
    write(stem.parent / x.ROOT_NAME, (directory / x.ROOT_NAME).read_bytes(), mode=0o644)
    write_list(directory, authority, enrolments, now=datetime.now(UTC))
    if out is not None:
        write(stem.parent / LIST_NAME.name, (directory / LIST_NAME).read_bytes(), mode=0o644)
    show_one(_issued(stem, made), as_json=as_json)


@ca.command("issue-client")
@changes_fleet
@click.argument("name")
@out_option
@dir_option
@passphrase_option
@json_option
def issue_client(name: str, out: Path | None, directory: Path, passphrase_file: Path | None, as_json: bool) -> None:
    """Issue a certificate to the hub, a consumer, a relay or a bridge.

    NAME is `hub` for the hub, or a name such as `analytics`. Devices enrol instead.

    The hub's is named in fleet.toml. Run it again before the certificate expires; the key stays, and a running hub takes the new one at
    its next connection.

    \b
    Examples:
      fleetcast ca issue-client hub
      fleetcast ca issue-client analytics --out ./grafana/client
    """
    check_name("name", name)
    authority, enrolments = open_authority(directory, passphrase_file), Enrolments(open_store(directory).database)
    if enrolments.node(name) is not None:
        raise Refused(
            Code.NAME_INVALID,
            f"{name!r} is an enrolled node, and two clients with one name end each other's connections: choose another name",
        )
    if name == "hub" and out is None:
        stem = issue_hub(directory, authority, enrolments)
    else:
        stem = _issue_client(out or directory / "tls" / name, name, authority, enrolments)
    made = x.load_certificate(stem.with_name(f"{stem.name}.crt"))
    write(stem.parent / x.ROOT_NAME, (directory / x.ROOT_NAME).read_bytes(), mode=0o644)
    show_one(
        {
            "name": name,
            "certificate": f"{stem}.crt",
            "key": f"{stem}.key",
            "authority": str(stem.parent / x.ROOT_NAME),
            "expires": made.not_valid_after_utc.isoformat(),
        },
        as_json=as_json,
    )


@ca.command("renew-issuer")
@changes_fleet
@dir_option
@passphrase_option
@json_option
def renew_issuer(directory: Path, passphrase_file: Path | None, as_json: bool) -> None:
    """Sign the issuer's certificate again, for another five years.

    The root's key (keys/ca.pem) signs it. Nothing else changes.

    \b
    Example:
      fleetcast ca renew-issuer
    """
    fleet, secret = load(directory).fleet, passphrase(passphrase_file)
    root, issuer = load_p256(directory / ROOT_KEY, secret), load_p256(directory / ISSUER_KEY, secret)
    certificate = x.load_certificate(directory / x.ROOT_NAME)
    x.issue_issuer(directory, root_certificate=certificate, root=root, issuer=issuer.public_key(), fleet=fleet, now=datetime.now(UTC))
    authority = x.Authority(directory, issuer, fleet=fleet)
    if (directory / LIST_NAME).exists():  # it holds as long as the issuer's certificate
        write_list(directory, authority, Enrolments(open_store(directory).database), now=datetime.now(UTC))
    show_one({"issuer": str(directory / x.ISSUER_NAME), "expires": authority.expires.isoformat()}, as_json=as_json)


def _issue_client(stem: Path, name: str, authority: x.Authority, enrolments: Enrolments) -> Path:
    made = authority.client(name, _key(stem), now=datetime.now(UTC))
    _keep(stem, made, authority, enrolments)
    return stem


def _key(stem: Path) -> bytes:
    """Return the public half of the key in this file, which is made if there is none."""
    path = stem.with_name(f"{stem.name}.key")
    if not path.parent.exists():
        durable.make_folder(path.parent, parents=True)
        path.parent.chmod(0o755)  # the broker's or client's user looks into it; the key itself is its owner's alone
    if not path.exists():
        create_tls_key(path)
    return load_p256(path).public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def _keep(stem: Path, made: x.Issued, authority: x.Authority, enrolments: Enrolments) -> None:
    enrolments.add_certificate(
        CertificateRow.of(serial=made.serial, name=made.name, kind=made.kind, not_after=made.not_after, certificate=made.certificate)
    )
    write(stem.with_name(f"{stem.name}.crt"), authority.chain_pem(made.certificate), mode=0o644)


def _issued(stem: Path, made: x.Issued) -> dict[str, Any]:
    return {
        "name": made.name,
        "certificate": f"{stem}.crt",
        "key": f"{stem}.key",
        "authority": str(stem.parent / x.ROOT_NAME),
        "revoked": str(stem.parent / LIST_NAME.name),
        "expires": made.not_after.isoformat(),
    }


def _row(name: str, kind: str, found: x509.Certificate, now: datetime) -> dict[str, Any]:
    begins, ends = found.not_valid_before_utc, found.not_valid_after_utc
    return {
        "name": name,
        "kind": kind,
        "expires": ends.isoformat(),
        "severity": severity_of((ends - now) / (ends - begins)),
        "revoked": False,
        "serial": f"{found.serial_number:x}",
    }
