"""Find the facts that `node.core.doctor.diagnosis` judges: look at files, and go to the broker step by step, as the agent would.

It disturbs nothing. Where the agent is connected, its own word is taken for the login: a broker may allow one connection a certificate, as
ours does, and ends the first for the second. What is written in the data folder is removed again.
"""

import errno
import os
import queue
import shutil
import socket
import ssl
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, TypeVar

from fleetcast.mqtt_connection import CONNACK_SECONDS, BrokerUrl, Connected, Disconnected, Link, LinkEvent, Message, Subscribed, TlsFiles
from node.core.doctor.diagnosis import Certificate, Facts, Folder, Login, Road, Served
from node.core.doctor.findings import Trouble
from node.enrol import credentials
from node.enrol.identity import Identity
from node.host.pidfile import is_locked, read_status
from node.runtimes import available
from node.runtimes.probe import unloadable
from node.settings import NodeSettings, load
from node.storage.inventory import OnDisk, keys_open_to_others, releases
from node.storage.store import NodeStore
from node.storage.store_file import DAMAGED_SUFFIX
from node.trust.tuf_client import Trust
from node.workers.device_profile import profile
from schemas import codec
from schemas.bundle import TrustBundle
from schemas.errors import Refused, Unreachable
from schemas.limits import TRUST_ROLE_BYTES_MAX
from schemas.topics import Topics

E = TypeVar("E", Connected, Subscribed, Message)

CONNECT_SECONDS: Final = 10.0
RETAINED_SECONDS: Final = 5.0  # a broker sends what it retains right behind its SUBACK
ALERT_SECONDS_MIN, ALERT_SECONDS_MAX = 0.3, 5.0  # A broker's time to report that it refuses our certificate.

INIT = Path("/proc/1")
LISTENING: Final = "0A"  # TCP_LISTEN, as /proc/net/tcp writes it

# OpenSSL's X509_V_ERR_* (openssl-verification-options(1)).
VERIFY: Final = {
    2: Trouble.TLS_WRONG_CA,
    7: Trouble.TLS_WRONG_CA,  # an authority that was made anew under its old name
    9: Trouble.TLS_NOT_YET,
    10: Trouble.TLS_EXPIRED,
    18: Trouble.TLS_WRONG_CA,
    19: Trouble.TLS_WRONG_CA,
    20: Trouble.TLS_WRONG_CA,
    21: Trouble.TLS_WRONG_CA,
    62: Trouble.TLS_WRONG_NAME,
    64: Trouble.TLS_WRONG_NAME,
}


def probe(path: Path, *, wall: Callable[[], float], step: Callable[[str], object] = lambda text: None) -> Facts:
    """Return all the facts about the node of a settings file; `step` hears what is looked at next."""
    now = int(wall())
    step("settings")
    try:
        settings = load(path)
        url = BrokerUrl.parse(settings.broker)
    except Refused as refusal:
        return Facts(now, settings_error=refusal.reason)
    tls = _tls(settings)
    if url.tls != (tls is not None):
        needs = "mqtts:// needs tls_ca, tls_certificate and tls_key" if url.tls else "TLS files are given: say mqtts://"
        return Facts(now, node=settings.id, settings_error=f"{path}: broker: {url} and the TLS files do not fit: {needs}")
    step("data folder")
    facts = Facts(now, node=settings.id, certificate=certificate_of(tls) if tls is not None else None)
    try:
        facts = _local(facts, settings, tls)
    except PermissionError as error:  # another user's folder: what can be seen from outside is still reported
        text = f"{error.strerror} ({error.filename}): run this as root, or as the user that the node runs as"
        facts = replace(facts, folder=Folder(str(settings.data), write_error=text))
    step(f"broker {url}")
    road = _road(url, tls) if facts.certificate is None or not _unusable(facts.certificate) else None
    facts = replace(facts, road=road)
    connected = facts.running and facts.status is not None and facts.status.online
    if road is None or road.failed or connected:
        return facts
    step("login")
    root = settings.root if not facts.root_error else None
    return replace(facts, login=_login(url, tls, settings, root, now))


def _tls(settings: NodeSettings) -> TlsFiles | None:
    given = (settings.tls_ca, settings.tls_certificate, settings.tls_key)
    return TlsFiles(*given) if any(given) else None


def _unusable(found: Certificate) -> bool:
    return bool(found.error or found.key_error or found.ca_error)


# Files


def _local(facts: Facts, settings: NodeSettings, tls: TlsFiles | None) -> Facts:
    on_disk = releases(settings.data)
    floor, served, store_error = _remembered(settings, on_disk)
    running, lock_error = _running(settings.data)
    error, missing = _root(settings.root)
    status = read_status(settings.data)
    kept = status is not None and status.inherited  # the service manager listens, and keeps it while the agent is away
    taken, port_error = _port(settings) if not running and not kept else (False, "")
    return replace(
        facts,
        folder=_folder(settings, tls, on_disk, store_error or lock_error),
        clock_floor=floor,
        root_error=error,
        root_missing=missing,
        running=running,
        status=status,
        port_error=port_error,
        port_taken=taken,
        served=served,
        runtimes=tuple(available()),
        unloadable=unloadable(settings.data),
        memory_bytes=_memory_bytes(settings, status.pid if running and status is not None else os.getpid()),
    )


def _folder(settings: NodeSettings, tls: TlsFiles | None, on_disk: list[OnDisk], store_error: str) -> Folder:
    data = settings.data
    keys = [data / "device.pem", *([Path(tls.key)] if tls is not None else [])]
    there = next((one for one in (data, *data.parents) if one.exists()), Path("/"))
    files = os.statvfs(there)
    key_error = ""
    if (data / "device.pem").exists():
        try:
            Identity.load_or_create(data / "device.pem")
        except Refused as refusal:
            key_error = refusal.reason
    return Folder(
        str(data),
        write_error=_write_error(there),
        mode=data.stat().st_mode & 0o777 if data.exists() else 0o700,
        free_bytes=shutil.disk_usage(there).free,
        free_files=files.f_favail if files.f_files else 2**62,  # file systems without a table of inodes say 0
        used_bytes=sum(one.bytes for one in on_disk),
        bytes_max=settings.disk_bytes_max,
        largest_bytes=max((one.bytes for one in on_disk), default=0),
        open_keys=tuple(keys_open_to_others(keys)),
        key_error=key_error,
        store_error=store_error,
        damaged=str(kept) if (kept := data / f"node.sqlite{DAMAGED_SUFFIX}").exists() else "",
        trust_gone=(data / "node.sqlite").exists() and read_status(data) is not None and not (data / "trust").is_dir(),
    )


def _write_error(folder: Path) -> str:
    """Return why nothing can be made there; the disk's own figures tell of no room."""
    try:
        with tempfile.NamedTemporaryFile(prefix=".doctor-", dir=folder):
            return ""
    except OSError as error:
        return "" if error.errno in {errno.ENOSPC, errno.EDQUOT} else error.strerror or str(error)


def _remembered(settings: NodeSettings, on_disk: list[OnDisk]) -> tuple[int, tuple[Served, ...], str]:
    path = settings.data / "node.sqlite"
    if not path.exists():
        return 0, (), ""
    try:
        store = NodeStore.reading(path)
    except Unreachable as error:
        return 0, (), str(error)
    slots, evidence, floor = store.slots(), store.evidence(), store.fact("clock_floor")
    store.close()
    by_digest = {one.digest: one for one in on_disk}
    served = []
    for model, slot in sorted(slots.items()):
        found = by_digest.get(slot.serving.digest) if slot.serving else None
        if slot.serving is None or found is None or found.manifest is None or not found.variants:
            continue
        measured = evidence.get(found.digest)
        memory = measured[1].memory_bytes if measured else None
        limit = found.manifest.limits.memory_bytes_max
        served.append(Served(model, slot.serving.version, found.variants[0].runtime, memory, limit))
    return floor, tuple(served), ""


def _running(data: Path) -> tuple[bool, str]:
    try:
        return is_locked(data), ""
    except OSError as error:
        return True, f"{error.filename}: {error.strerror}"  # somebody else's: whether it runs is not ours to know


def _root(path: Path) -> tuple[str, bool]:
    try:
        with path.open("rb") as file:
            pinned = file.read(TRUST_ROLE_BYTES_MAX + 1)
    except OSError as error:
        return f"the fleet's root {path}: {error.strerror}", True
    try:
        with tempfile.TemporaryDirectory() as scratch:
            Trust(Path(scratch), pinned)
    except Refused as refusal:
        return f"the fleet's root {path}: {refusal.reason}", False
    return "", False


def certificate_of(tls: TlsFiles) -> Certificate:
    """Return the facts about the three TLS files."""
    found = Certificate(tls.certificate)
    try:
        shown = credentials.read(tls.certificate)
        found = replace(found, name=shown.name, not_before=shown.not_before, not_after=shown.not_after)
    except OSError as error:
        found = replace(found, error=f"{tls.certificate}: {error.strerror}")
    except ValueError:
        found = replace(found, error=f"{tls.certificate} holds no certificate in PEM form")
    try:
        ssl.create_default_context(cafile=tls.ca)
    except (OSError, ssl.SSLError) as error:
        found = replace(found, ca_error=f"{tls.ca}: {_text(error)}")
    if not found.error:
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(tls.certificate, tls.key)
        except (OSError, ssl.SSLError) as error:
            found = replace(found, key_error=f"{tls.key} does not open {tls.certificate}: {_text(error)}")
    return found


def _text(error: OSError) -> str:
    if isinstance(error, ssl.SSLError):
        return (error.reason or str(error)).replace("_", " ").lower()
    return error.strerror or str(error)


def _memory_bytes(settings: NodeSettings, pid: int) -> int:
    """Return what the node may have: the machine's memory, or less where its service has a bound."""
    found = profile(settings).memory_bytes
    with suppress(OSError, ValueError):
        group = Path(f"/proc/{pid}/cgroup").read_text().partition("0::/")[2].strip()
        found = min(found, int(Path(f"/sys/fs/cgroup/{group}/memory.max").read_text()))
    return found


def _port(settings: NodeSettings) -> tuple[bool, str]:
    """Return whether somebody else has the address that the agent will want, and the error."""
    if settings.port == 0 or not settings.tcp:
        return False, ""
    try:
        family, kind, proto, _, address = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, proto) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(1)
    except OSError as error:
        if error.errno == errno.EADDRINUSE and _kept_by_init(settings.port):
            return False, ""
        return error.errno == errno.EADDRINUSE, f"cannot listen on {settings.host}:{settings.port}: {error.strerror or error}"
    return False, ""


def _kept_by_init(port: int) -> bool:
    """Return whether the service manager itself listens there, for a node that is to start; only root can tell."""
    listening = set()
    for table in (Path("/proc/net/tcp"), Path("/proc/net/tcp6")):
        with suppress(OSError):
            for fields in (line.split() for line in table.read_text().splitlines()[1:]):
                if fields[3] == LISTENING and int(fields[1].rpartition(":")[2], 16) == port:
                    listening.add(f"socket:[{fields[9]}]")
    with suppress(OSError):
        return any(str(held.readlink()) in listening for held in (INIT / "fd").iterdir())
    return False


# The broker


def _road(url: BrokerUrl, tls: TlsFiles | None) -> Road:
    """Return name, connection, and TLS, as far as it goes."""
    found = Road(str(url))
    try:
        address = socket.getaddrinfo(url.host, url.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        return replace(found, failed="resolve", error=getattr(error, "strerror", None) or str(error))
    try:
        raw = socket.create_connection((url.host, url.port), timeout=CONNECT_SECONDS)
    except ConnectionRefusedError as error:
        return replace(found, failed="refused", error=error.strerror or "refused")
    except TimeoutError:
        return replace(found, failed="timed_out", error=f"{address[0][4][0]}, {CONNECT_SECONDS:g} s")
    except OSError as error:
        return replace(found, failed="unreachable", error=error.strerror or str(error))
    with raw:
        return found if tls is None else _handshake(found, url, tls, raw)


def _handshake(found: Road, url: BrokerUrl, tls: TlsFiles, raw: socket.socket) -> Road:
    context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=tls.ca)
    context.load_cert_chain(tls.certificate, tls.key)
    began = time.monotonic()
    try:
        with context.wrap_socket(raw, server_hostname=url.host) as wrapped:
            shown: Any = wrapped.getpeercert()
            found = replace(
                found,
                not_before=int(ssl.cert_time_to_seconds(shown["notBefore"])),
                not_after=int(ssl.cert_time_to_seconds(shown["notAfter"])),
            )
            # In TLS 1.3 a broker judges our certificate when the handshake is over for us: its alert is what can be read then.
            wrapped.settimeout(min(ALERT_SECONDS_MAX, max(ALERT_SECONDS_MIN, 3 * (time.monotonic() - began))))
            try:
                if not wrapped.recv(1):
                    return replace(found, failed="tls", tls=Trouble.TLS_REFUSED, error="it closed the connection on our certificate")
            except TimeoutError:
                return found  # it waits for a CONNECT
            return found
    except ssl.SSLCertVerificationError as error:
        code = VERIFY.get(error.verify_code, Trouble.TLS_FAILED)
        return replace(found, failed="tls", tls=code, error=error.verify_message.rstrip("."))
    except ssl.SSLError as error:
        refused = "ALERT" in (error.reason or "")
        text = f"it refuses our certificate: {_text(error)}" if refused else f"no TLS: {_text(error)}"
        return replace(found, failed="tls", tls=Trouble.TLS_REFUSED if refused else Trouble.TLS_FAILED, error=text)
    except OSError as error:
        return replace(found, failed="tls", tls=Trouble.TLS_FAILED, error=f"the TLS handshake broke: {error.strerror or error}")


def _login(url: BrokerUrl, tls: TlsFiles | None, settings: NodeSettings, root: Path | None, now: int) -> Login | None:
    """Connect, ask for what the hub retains, and judge it by the pinned root; None when the agent came in between."""
    inbox: queue.Queue[LinkEvent] = queue.Queue()
    topic = Topics(settings.fleet).trust
    # Not the node's own client id, which most brokers would end the session for that waits for the agent.
    link = Link(url, client_id=f"{settings.id}-doctor-{os.getpid()}", inbox=inbox, session_expiry_seconds=0, tls=tls)
    try:
        link.open()
        failed = _after_connect(_heard(inbox, Connected, CONNACK_SECONDS), url)
        if failed is None:
            link.subscribe([topic])
            failed = _after_subscribe(_heard(inbox, Subscribed, CONNACK_SECONDS), url, topic, settings.id)
        if failed is not None:
            return failed
        message = _heard(inbox, Message, RETAINED_SECONDS)
        if isinstance(message, Disconnected):
            taken = "taken over" in message.reason.lower()
            return None if taken else Login("silent", f"broker {url} ended the connection: {message.reason}")
        if message is None or not message.payload:
            return Login(topic=topic)
        return _judged(Login(topic=topic, arrived=True), message.payload, root, now)
    except Unreachable as error:
        return Login("silent", str(error))
    finally:
        link.close()


def _after_connect(heard: Connected | Disconnected | None, url: BrokerUrl) -> Login | None:
    """Return what went wrong, if something did."""
    if isinstance(heard, Disconnected):
        silent = heard.reason.startswith("Unspecified")  # the connection broke, and the broker gave no reason code
        return Login("silent" if silent else "refused", f"broker {url} ended the connection at our CONNECT: {heard.reason}")
    if heard is None:
        return Login("silent", f"broker {url} took the connection, and did not answer a CONNECT in {CONNACK_SECONDS:g} s")
    return None


def _after_subscribe(heard: Subscribed | Disconnected | None, url: BrokerUrl, topic: str, node: str) -> Login | None:
    """Return what went wrong, if something did."""
    if not isinstance(heard, Subscribed):
        return Login("silent", f"broker {url} did not answer a SUBSCRIBE")
    if heard.refused:
        return Login("denied", f"broker {url} denies {node!r} the subscription to {topic}")
    return None


def _heard(inbox: "queue.Queue[LinkEvent]", kind: type[E], seconds: float) -> E | Disconnected | None:
    """Return the next event of a kind, or the end of the connection; None when neither comes in time."""
    deadline = time.monotonic() + seconds
    with suppress(queue.Empty):
        while True:
            event = inbox.get(timeout=max(0.0, deadline - time.monotonic()))
            if isinstance(event, kind | Disconnected):
                return event
    return None


def _judged(found: Login, payload: bytes, root: Path | None, now: int) -> Login:
    if root is None:
        return found
    try:
        bundle = codec.decode(TrustBundle, payload)
        with tempfile.TemporaryDirectory() as scratch:
            Trust(Path(scratch), root.read_bytes()).accept(bundle, now=datetime.fromtimestamp(now, UTC))
    except Refused as refusal:
        return replace(found, refused=refusal.code, refusal=refusal.reason)
    return found
