"""Decide what is wrong with a node: facts in, findings out. Reads no clock, file or network; `node.agent.reports.doctor_facts` gathers the
facts.

Each check looks at one thing. What could not be looked at, because something before it failed, is None, and no check speaks of it: a
finding is about a cause, and not about what follows from it.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal

from fleetcast.backoff import ENDED_SECONDS, LASTING_SECONDS, SHORT_CONNECTIONS_MIN
from node.core.doctor.agent_health import SILENT_SECONDS_MAX, AgentStatus, is_stale
from node.core.doctor.findings import Finding, Trouble
from node.core.trust.clock import BUILD_TIME, SKEW_SECONDS_MAX
from schemas.errors import Code

FREE_BYTES_MIN = 16 * 1024 * 1024  # below it the store's log and a window of blocks have no room
QUOTA_SHARE = 0.9  # Share of what releases may take: the next one will hardly fit
EXPIRING_SHARE = 0.2  # Rest of a certificate's life at which somebody should have renewed it
EXPIRING_SECONDS = 4 * 3600  # Rest of trusted metadata's life, which a hub that is well renews twice a day
EMPTY_SECONDS = 30  # connected, and nothing that is retained has come: there is nothing
CLOCK_YEARS_MAX = 30  # after this program was made
YEAR_SECONDS = 365 * 86_400


@dataclass(frozen=True, slots=True)
class Folder:
    """Hold the data folder and its disk. `used_bytes` and `largest_bytes` are of releases."""

    path: str
    write_error: str = ""
    mode: int = 0o700
    free_bytes: int = 2**62
    free_files: int = 2**62
    used_bytes: int = 0
    bytes_max: int | None = None
    largest_bytes: int = 0
    open_keys: tuple[str, ...] = ()
    key_error: str = ""
    store_error: str = ""
    damaged: str = ""  # a database that was set aside
    trust_gone: bool = False  # the trusted metadata's folder, though an agent has run here


@dataclass(frozen=True, slots=True)
class Certificate:
    """Hold the node's certificate for the broker; the errors are of the three files."""

    path: str
    name: str = ""
    not_before: int = 0
    not_after: int = 2**40
    error: str = ""
    key_error: str = ""
    ca_error: str = ""


@dataclass(frozen=True, slots=True)
class Road:
    """Describe how far one came towards the broker: the first step that failed, and its error."""

    broker: str
    failed: Literal["", "resolve", "refused", "timed_out", "unreachable", "tls"] = ""
    error: str = ""
    tls: Trouble | None = None
    not_before: int | None = None  # The broker's certificate's.
    not_after: int | None = None


@dataclass(frozen=True, slots=True)
class Login:
    """Describe what came of a CONNECT, a SUBSCRIBE and a wait for what the hub retains."""

    failed: Literal["", "silent", "refused", "denied"] = ""
    error: str = ""
    topic: str = ""
    arrived: bool = False
    refused: Code | None = None  # Why the trust bundle that arrived was refused, judged by the pinned root.
    refusal: str = ""


@dataclass(frozen=True, slots=True)
class Served:
    """Hold a release that the node serves. `memory_bytes` was measured here; the limit is what its worker may take."""

    model: str
    version: str
    runtime: str
    memory_bytes: int | None
    memory_bytes_max: int


@dataclass(frozen=True, slots=True)
class Facts:
    """Hold all that was found out; None where it could not be."""

    now: int
    node: str = ""
    settings_error: str = ""
    folder: Folder | None = None
    clock_floor: int = 0
    root_error: str = ""
    root_missing: bool = False
    certificate: Certificate | None = None
    road: Road | None = None
    login: Login | None = None
    running: bool = False
    status: AgentStatus | None = None
    port_error: str = ""
    port_taken: bool = False
    served: tuple[Served, ...] = ()
    runtimes: tuple[str, ...] | None = None
    unloadable: Mapping[str, str] = field(default_factory=dict)  # Runtimes that cannot be loaded, and why.
    memory_bytes: int | None = None


def diagnose(facts: Facts) -> list[Finding]:
    """Return everything that is wrong, troubles first."""
    found = [finding for check in CHECKS for finding in check(facts)]
    return sorted(found, key=lambda finding: finding.level != "trouble")


def settings(facts: Facts) -> Iterator[Finding]:
    """Judge the settings file."""
    if facts.settings_error:
        yield Finding(Trouble.SETTINGS_INVALID, facts.settings_error)


def folder(facts: Facts) -> Iterator[Finding]:
    """Judge the data folder, its keys and its disk."""
    found = facts.folder
    if found is None:
        return
    if found.write_error:
        yield Finding(Trouble.FOLDER_NOT_WRITABLE, f"{found.path} cannot be written: {found.write_error}")
    if found.mode & 0o007:
        yield Finding(Trouble.FOLDER_OPEN, f"{found.path} has mode {found.mode & 0o777:03o}: others on this device can look into it")
    if found.trust_gone:
        yield Finding(Trouble.FOLDER_TRUST, f"{found.path}/trust is gone, where the trusted metadata was kept")
    for key in found.open_keys:
        yield Finding(Trouble.KEY_OPEN, f"the private key {key} can be read by others on this device")
    if found.key_error:
        yield Finding(Trouble.KEY_UNREADABLE, found.key_error)
    if found.store_error:
        yield Finding(Trouble.STORE_UNREADABLE, found.store_error)
    if found.damaged:
        yield Finding(Trouble.STORE_SET_ASIDE, f"the node's database was damaged, and is kept at {found.damaged}")
    if found.write_error:
        return  # Room says nothing about a disk where nothing can be made.
    if found.free_files == 0:
        yield Finding(Trouble.DISK_FULL, f"the disk of {found.path} has no inode left, whatever bytes it has")
    elif found.free_bytes < FREE_BYTES_MIN:
        yield Finding(
            Trouble.DISK_FULL, f"the disk of {found.path} has {found.free_bytes} bytes left, at least {FREE_BYTES_MIN} are needed"
        )
    elif found.free_bytes < found.largest_bytes:
        yield Finding(Trouble.DISK_LOW, f"the disk of {found.path} has {found.free_bytes} bytes left, a release here {found.largest_bytes}")
    if found.bytes_max is not None and found.used_bytes > QUOTA_SHARE * found.bytes_max:
        yield Finding(Trouble.DISK_QUOTA, f"releases take {found.used_bytes} of the {found.bytes_max} bytes that they may")


def clock(facts: Facts) -> Iterator[Finding]:
    """Judge the wall clock by what is proved."""
    now, floor = facts.now, facts.clock_floor
    if now < BUILD_TIME:
        yield Finding(Trouble.CLOCK_NOT_SET, f"the clock is {_days(BUILD_TIME - now)} before this program was made: it was never set")
    elif now + SKEW_SECONDS_MAX < floor:
        here, signed = (f"{datetime.fromtimestamp(one, UTC):%Y-%m-%d %H:%M} UTC" for one in (now, floor))
        behind = f"{_days(floor - now)} behind the newest signature that this node has seen"
        yield Finding(Trouble.CLOCK_BEHIND, f"the clock says {here}, {behind}, which says {signed}: until then nothing new is activated")
    elif now > BUILD_TIME + CLOCK_YEARS_MAX * YEAR_SECONDS:
        yield Finding(Trouble.CLOCK_AHEAD, f"the clock is more than {CLOCK_YEARS_MAX} years after this program was made")
    elif _expired_both(facts):
        yield Finding(Trouble.CLOCK_AHEAD, "by this clock both our certificate and the broker's have expired")


def _expired_both(facts: Facts) -> bool:
    ours, theirs = facts.certificate, facts.road
    return ours is not None and not ours.error and facts.now > ours.not_after and theirs is not None and theirs.tls is Trouble.TLS_EXPIRED


def root(facts: Facts) -> Iterator[Finding]:
    """Judge the pinned root, which all trust rests on."""
    if facts.root_error:
        yield Finding(Trouble.ROOT_UNREADABLE if facts.root_missing else Trouble.ROOT_INVALID, facts.root_error)


def metadata(facts: Facts) -> Iterator[Finding]:
    """Judge what the agent last believed, as long as nothing newer was seen at the broker, which `login` judges."""
    status = facts.status
    if status is None or status.expires is None or facts.now < BUILD_TIME or (facts.login is not None and facts.login.arrived):
        return
    left = status.expires - facts.now
    if is_stale(status.expires, wall=facts.now, floor=facts.clock_floor):
        if left <= 0:
            yield Finding(Trouble.METADATA_STALE, f"trusted metadata expired {_days(-left)} ago: nothing new is activated")
    elif left < EXPIRING_SECONDS:
        yield Finding(Trouble.METADATA_EXPIRING, f"trusted metadata expires in {_days(left)}, and newer has not come")


def certificate(facts: Facts) -> Iterator[Finding]:
    """Judge our own certificate, its key, and the authority that we believe."""
    found, now = facts.certificate, facts.now
    if found is None:
        return
    if found.ca_error:
        yield Finding(Trouble.CA_UNREADABLE, found.ca_error)
    if found.error:
        yield Finding(Trouble.CERTIFICATE_UNREADABLE, found.error)
        return
    if found.key_error:
        yield Finding(Trouble.CERTIFICATE_KEY, found.key_error)
    if facts.node and found.name != facts.node:
        yield Finding(Trouble.CERTIFICATE_NAME, f"{found.path} is of {found.name!r}, and this node is {facts.node!r}")
    left, life = found.not_after - now, found.not_after - found.not_before
    if now < found.not_before:
        yield Finding(Trouble.CERTIFICATE_NOT_YET, f"{found.path} is valid only in {_days(found.not_before - now)}")
    elif left <= 0:
        yield Finding(Trouble.CERTIFICATE_EXPIRED, f"{found.path} expired {_days(-left)} ago")
    elif left < EXPIRING_SHARE * life:
        yield Finding(Trouble.CERTIFICATE_EXPIRING, f"{found.path} expires in {_days(left)}, of {_days(life)}")


_STEPS = {
    "resolve": (Trouble.DNS_UNRESOLVED, "its name is not found"),
    "refused": (Trouble.TCP_REFUSED, "nobody listens there"),
    "timed_out": (Trouble.TCP_TIMED_OUT, "nothing answers"),
    "unreachable": (Trouble.TCP_UNREACHABLE, "there is no way there"),
}


def road(facts: Facts) -> Iterator[Finding]:
    """Judge the road, from the broker's name to its certificate."""
    found = facts.road
    if found is None:
        return
    if found.failed in _STEPS:
        code, text = _STEPS[found.failed]
        yield Finding(code, f"broker {found.broker}: {text} ({found.error})")
    elif found.failed == "tls":
        yield Finding(found.tls or Trouble.TLS_FAILED, f"broker {found.broker}: {found.error}")
    elif found.not_before is not None and found.not_after is not None:
        left = found.not_after - facts.now
        if 0 < left < EXPIRING_SHARE * (found.not_after - found.not_before):
            yield Finding(Trouble.TLS_EXPIRING, f"broker {found.broker}: its certificate expires in {_days(left)}")


_LOGINS = {"silent": Trouble.BROKER_SILENT, "refused": Trouble.BROKER_REFUSES, "denied": Trouble.BROKER_DENIES}


def login(facts: Facts) -> Iterator[Finding]:
    """Judge what the broker lets us do, and whether the hub has spoken there; of a connected agent, by its own word."""
    status, found = facts.status, facts.login
    if status is not None and facts.running:
        yield from _connection(status, facts.now)
    if found is None:
        return
    if found.failed:
        yield Finding(_LOGINS[found.failed], found.error)
    elif not found.arrived:
        yield Finding(Trouble.BROKER_EMPTY, f"nothing came on {found.topic}, where the hub retains what nodes trust")
    elif found.refused is Code.TRUST_EXPIRED:
        yield Finding(Trouble.METADATA_STALE, f"what the hub retains at the broker has expired by this clock: {found.refusal}")
    elif found.refused is Code.TRUST_SIGNATURE:
        yield Finding(Trouble.ROOT_OTHER_FLEET, f"what the hub retains is not signed by the pinned root: {found.refusal}")
    elif found.refused is not None:
        yield Finding(Trouble.METADATA_REFUSED, f"{found.refusal} [{found.refused}]")


def _connection(status: AgentStatus, now: int) -> Iterator[Finding]:
    if "taken over" in status.reason.lower():
        yield Finding(Trouble.BROKER_TAKEN_OVER, f"the broker ended our connection: {status.reason}")
    elif status.short_connections >= SHORT_CONNECTIONS_MIN and not (status.online and now - status.since >= LASTING_SECONDS):
        yield Finding(Trouble.BROKER_SHORT, f"the last {status.short_connections} connections to the broker ended soon after they began")
    elif status.ended_connections >= SHORT_CONNECTIONS_MIN:
        text = f"{status.ended_connections} connections to the broker ended in the last {ENDED_SECONDS // 60} minutes"
        yield Finding(Trouble.BROKER_SHORT, text)
    if not status.online:
        return
    if status.denied:
        yield Finding(Trouble.BROKER_DENIES, f"the broker denies {status.denied} of the agent's subscriptions")
    elif not status.root_version and f"[{Code.TRUST_SIGNATURE}]" in status.error:
        yield Finding(Trouble.ROOT_OTHER_FLEET, f"what the hub retains is not signed by the pinned root: {status.error}")
    elif not status.root_version and now - status.since > EMPTY_SECONDS:
        yield Finding(Trouble.BROKER_EMPTY, f"the agent is connected for {_days(now - status.since)}, and no trusted metadata has come")


def runtimes(facts: Facts) -> Iterator[Finding]:
    """Judge whether what is served can be run."""
    if facts.runtimes is None:
        return
    for one in facts.served:
        if one.runtime not in facts.runtimes:
            here = ", ".join(facts.runtimes) or "none"
            yield Finding(Trouble.RUNTIME_ABSENT, f"{one.model} {one.version} needs the runtime {one.runtime}; installed are {here}")
        elif one.runtime in facts.unloadable:
            text = f"{one.model} {one.version} needs the runtime {one.runtime}, which cannot be loaded: {facts.unloadable[one.runtime]}"
            yield Finding(Trouble.RUNTIME_ABSENT, text)
    for name in sorted(facts.unloadable.keys() - {one.runtime for one in facts.served}):
        yield Finding(Trouble.RUNTIME_UNLOADABLE, f"the runtime {name} is installed and cannot be loaded: {facts.unloadable[name]}")


def memory(facts: Facts) -> Iterator[Finding]:
    """Judge whether what is served fits, the largest of it twice, as in a switch."""
    if facts.memory_bytes is None or not facts.served:
        return
    measured = [one.memory_bytes for one in facts.served if one.memory_bytes is not None]
    taken = sum(measured) + max(measured, default=0)
    allowed = sum(one.memory_bytes_max for one in facts.served)
    if taken > facts.memory_bytes:
        text = f"served models take {sum(measured)} bytes, {taken} in a switch; the node may have {facts.memory_bytes}"
        yield Finding(Trouble.MEMORY_SHORT, text)
    elif allowed > facts.memory_bytes:
        yield Finding(
            Trouble.MEMORY_LIMITS, f"served models may take {allowed} bytes by their limits, the node may have {facts.memory_bytes}"
        )


def port(facts: Facts) -> Iterator[Finding]:
    """Return where local programs ask."""
    if facts.port_error:
        yield Finding(Trouble.PORT_IN_USE if facts.port_taken else Trouble.PORT_UNUSABLE, facts.port_error)


def agent(facts: Facts) -> Iterator[Finding]:
    """Judge the process and its supervisor."""
    status = facts.status
    if status is None:
        return
    if facts.node and status.node != facts.node:
        did = "runs" if facts.running else "ran"
        text = f"the node {status.node!r} of fleet {status.fleet!r} {did} on this folder, and this is {facts.node!r}"
        yield Finding(Trouble.AGENT_OTHER, text)
        return
    if not facts.running:
        if status.ended_at is None:
            yield Finding(Trouble.AGENT_DIED, f"the agent (pid {status.pid}) ended without a word")
        return
    if status.ended_at is not None:
        return  # another one has only just begun
    silent = facts.now - status.written_at
    if abs(silent) > SILENT_SECONDS_MAX:
        yield Finding(Trouble.AGENT_SILENT, f"the agent (pid {status.pid}) has said nothing for {_days(abs(silent))}")
    elif status.written_at - status.answered_at > SILENT_SECONDS_MAX:
        text = f"the serving thread of pid {status.pid} has not answered for {_days(status.written_at - status.answered_at)}"
        yield Finding(Trouble.SERVING_SILENT, text)
    else:
        loaded = {worker.digest for worker in status.workers}
        may_load = status.written_at - status.started_at <= SILENT_SECONDS_MAX
        for slot in status.slots:
            is_damaged = slot.code == Code.DISK_DAMAGED
            if is_damaged and slot.target is not None and slot.target != slot.serving:
                wanted = f"model {slot.model} {slot.target_version}, which is wanted,"
                yield Finding(Trouble.SERVING_DAMAGED, f"files of {wanted} are damaged on this disk: they are fetched again")
            if slot.serving is None or slot.serving in loaded:
                continue
            name = f"model {slot.model} {slot.serving_version}"
            if is_damaged:
                text = f"files of {name} are missing, cannot be read or differ from the manifest: it is not loaded"
                yield Finding(Trouble.SERVING_DAMAGED, text)
            elif not may_load:
                yield Finding(Trouble.SERVING_NOTHING, f"{name} is to be served, and is not loaded: requests for it are refused")
    if status.supervised and not status.inherited:
        yield Finding(Trouble.SERVICE_NO_SOCKET, "a service manager started the agent, and passed it no socket (LISTEN_FDS)")
    if status.supervised and status.watchdog_seconds is None:
        yield Finding(Trouble.SERVICE_NO_WATCHDOG, "a service manager started the agent, and does not watch it (WATCHDOG_USEC)")


def reported(facts: Facts) -> Iterator[Finding]:
    """Return what the agent itself has found: documents that it refused, and files of the site."""
    if facts.status is None or not facts.running:
        return
    for one in facts.status.findings:
        about = f" of {one.model}" if one.model else ""
        if one.code == Code.CLOCK_UNKNOWN:
            continue  # `clock` has judged it.
        if one.code == Code.DISK_FULL and facts.status.read_only:
            continue  # So has `disk`.
        if one.code == Code.RECEIPT_KEY_CHANGED:
            yield Finding(Trouble.KEY_REFUSED, one.reason)
        elif one.kind == "site" and one.code == Code.DISK_FULL:
            yield Finding(Trouble.DISK_FULL, one.reason)
        elif one.kind == "site":
            yield Finding(Trouble.SITE_FILE, f"{one.reason} ({one.code})")
        else:
            yield Finding(
                Trouble.DOCUMENT_REFUSED, f"the {_DOCUMENTS.get(one.kind, one.kind)}{about} is refused: {one.reason} ({one.code})"
            )


_DOCUMENTS = {
    "trust": "trust bundle",
    "rollout": "rollout",
    "model": "model bundle",
    "release": "manifest of a release",
    "settings": "document of the hub's settings",
}


CHECKS: tuple[Callable[[Facts], Iterator[Finding]], ...] = (
    settings, folder, clock, root, metadata, certificate, road, login, runtimes, memory, port, agent, reported,
)  # fmt: skip


def _days(seconds: int) -> str:
    for unit, length in (("days", 86_400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length} {unit}"
    return f"{seconds} seconds"
