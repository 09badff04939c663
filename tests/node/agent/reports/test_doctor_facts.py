"""The doctor finds what is really wrong, on real files, disks and sockets, and at mosquitto with our own configuration."""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from fleetcast.mqtt_connection import Disconnected, Message, TlsFiles
from node.agent.reports.doctor_facts import probe
from node.core.activation.lifecycle import ModelSlot, Move, Target
from node.core.doctor.agent_health import AgentStatus
from node.core.doctor.diagnosis import diagnose
from node.core.doctor.findings import Trouble
from node.core.trust.clock import BUILD_TIME
from node.host.pidfile import alone, write_status
from node.storage.store import NodeStore
from schemas import codec
from schemas.bundle import TrustBundle
from schemas.manifest import Limits
from schemas.names import sha256
from schemas.receipt import Evidence
from schemas.topics import Topics
from tests import warm
from tests.broker.client import Client
from tests.brokers import FLEET, Authority, Broker, Mosquitto, free_port
from tests.node.agent.hubs import release
from tests.small_disk import small_disk
from tests.trust_fleet import Fleet

BIN = Path(sys.executable).parent
NAME = "gw-1"


class Site:
    """A node's folder that is in order; a test puts one thing out of order."""

    def __init__(self, folder: Path, broker: Broker) -> None:
        self.folder, self.broker = folder, broker
        self.fleet = Fleet.make(folder / "fleet", now=datetime.now(UTC))
        self.data = folder / "data"
        self.data.mkdir(mode=0o700)
        self.path = folder / "node.toml"
        (folder / "root.json").write_bytes(self.fleet.repository.root())
        self.said: dict[str, Any] = {"id": NAME, "fleet": FLEET, "broker": broker.url(NAME), "data": "data", "root": "root.json"}
        self.say(port=free_port())
        self.show(broker.tls(NAME))

    def say(self, **fields: Any) -> None:
        self.said |= fields
        self.path.write_text("\n".join(f"{name} = {json.dumps(value)}" for name, value in self.said.items() if value is not None) + "\n")

    def show(self, tls: TlsFiles | None) -> None:
        """Say who we are to the broker."""
        if tls is not None:
            Path(tls.key).chmod(0o600)
            self.say(tls_ca=tls.ca, tls_certificate=tls.certificate, tls_key=tls.key)

    def show_nothing(self) -> None:
        self.say(tls_ca=None, tls_certificate=None, tls_key=None)

    def retain(self, bundle: TrustBundle | None = None) -> None:
        """What a hub retains."""
        client = Client.of(self.broker, "hub")
        client.open()
        client.link.publish(Topics(FLEET).trust, codec.encode(bundle or self.fleet.refresh(after=timedelta())), retain=True)
        client.subscribe(Topics(FLEET).trust)
        client.next(Message)
        client.link.close()

    def found(self, *, now: float | None = None) -> set[Trouble]:
        return {finding.code for finding in diagnose(probe(self.path, wall=lambda: now or time.time()))}


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A broker on a machine that has much to do takes its time to say that it refuses a certificate."""
    monkeypatch.setattr("node.agent.reports.doctor_facts.ALERT_SECONDS_MIN", 30.0)
    monkeypatch.setattr("node.agent.reports.doctor_facts.ALERT_SECONDS_MAX", 30.0)


@pytest.fixture
def site(mosquitto: Broker, tmp_path: Path) -> Site:
    made = Site(tmp_path, mosquitto)
    made.retain()
    return made


@pytest.fixture
def authority(site: Site) -> Authority:
    """Of the broker and its nodes."""
    assert isinstance(site.broker, Mosquitto)
    return site.broker._authority


def another(authority: Authority, name: str, **how: Any) -> TlsFiles:
    """A certificate in place of the one that was made first."""
    for suffix in (".crt", ".key"):
        (authority.directory / f"{name}{suffix}").unlink()
    return authority.issue(name, **how)


def test_a_node_that_is_in_order_has_no_finding(broker: Broker, tmp_path: Path) -> None:
    site = Site(tmp_path, broker)
    site.retain()

    assert site.found() == set()


# Certificates


@pytest.mark.parametrize(
    ("hours", "found"),
    [
        ((-2, -1), {Trouble.CERTIFICATE_EXPIRED, Trouble.TLS_REFUSED}),
        ((1, 2), {Trouble.CERTIFICATE_NOT_YET, Trouble.TLS_REFUSED}),
        ((-10, 1), {Trouble.CERTIFICATE_EXPIRING}),
    ],
)
def test_our_certificate_is_judged_by_us_and_by_the_broker(
    site: Site, authority: Authority, hours: tuple[float, float], found: set[Trouble], request: pytest.FixtureRequest
) -> None:
    if Trouble.TLS_REFUSED in found:
        request.getfixturevalue("patient")
    site.show(another(authority, NAME, hours=hours))

    assert site.found() == found


@pytest.mark.parametrize(
    ("how", "found"),
    [
        ({"hours": (-2, -1)}, Trouble.TLS_EXPIRED),
        ({"hours": (1, 2)}, Trouble.TLS_NOT_YET),
        ({"hours": (-10, 1)}, Trouble.TLS_EXPIRING),
        ({"host": "broker.elsewhere"}, Trouble.TLS_WRONG_NAME),
    ],
)
def test_the_brokers_certificate_is_judged(site: Site, authority: Authority, how: dict[str, Any], found: Trouble) -> None:
    another(authority, "server", server=True, **how)
    site.broker.restart()
    if found is Trouble.TLS_EXPIRING:
        site.retain()

    assert site.found() == {found}


def test_a_broker_of_another_authority_is_told(site: Site) -> None:
    site.say(tls_ca=str(Authority(site.folder / "stranger").ca_path))

    assert site.found() == {Trouble.TLS_WRONG_CA}


@pytest.mark.usefixtures("patient")
def test_a_certificate_of_another_authority_is_refused_by_the_broker_and_told(site: Site, authority: Authority) -> None:
    site.show(Authority(site.folder / "stranger").issue(NAME))
    site.say(tls_ca=str(authority.ca_path))

    assert site.found() == {Trouble.TLS_REFUSED}


def test_a_certificate_with_another_name_is_told_because_rights_go_by_it(site: Site, authority: Authority) -> None:
    site.show(authority.issue("gw-2"))

    assert site.found() == {Trouble.CERTIFICATE_NAME}


def test_a_key_that_does_not_fit_is_told_and_the_broker_is_not_asked(site: Site, authority: Authority) -> None:
    other = authority.issue("gw-2")
    Path(other.key).chmod(0o600)
    site.say(tls_key=other.key)

    assert site.found() == {Trouble.CERTIFICATE_KEY}


@pytest.mark.parametrize(
    ("field", "content", "found"),
    [
        ("tls_certificate", None, Trouble.CERTIFICATE_UNREADABLE),
        ("tls_certificate", "no PEM", Trouble.CERTIFICATE_UNREADABLE),
        ("tls_key", None, Trouble.CERTIFICATE_KEY),
        ("tls_ca", None, Trouble.CA_UNREADABLE),
        ("tls_ca", "no PEM", Trouble.CA_UNREADABLE),
    ],
)
def test_a_tls_file_that_cannot_be_read_is_told_by_its_name(site: Site, field: str, content: str | None, found: Trouble) -> None:
    path = site.folder / "other.pem"
    if content is not None:
        path.write_text(content)
    site.say(**{field: str(path)})

    findings = diagnose(probe(site.path, wall=time.time))

    assert [(finding.code, str(path) in finding.what) for finding in findings] == [(found, True)]


# The road


def test_a_name_that_is_not_found_is_told(site: Site) -> None:
    site.say(broker="mqtts://no-such-broker.invalid:8883")

    assert site.found() == {Trouble.DNS_UNRESOLVED}


def test_a_port_where_nobody_listens_is_told(site: Site) -> None:
    site.say(broker=f"mqtts://127.0.0.1:{free_port()}")

    assert site.found() == {Trouble.TCP_REFUSED}


def test_a_broker_that_does_not_answer_is_told(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("node.agent.reports.doctor_facts.CONNECT_SECONDS", 1.0)
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        waiting = [socket.socket() for _ in range(8)]  # more than its queue holds: the kernel drops who comes next
        for one in waiting:
            one.setblocking(False)
            one.connect_ex(full.getsockname())
        time.sleep(0.2)
        site.say(broker=f"mqtts://127.0.0.1:{full.getsockname()[1]}")

        found = site.found()
        for one in waiting:
            one.close()

    assert found == {Trouble.TCP_TIMED_OUT}


def test_a_port_without_tls_is_told(site: Site) -> None:
    assert isinstance(site.broker, Mosquitto)
    plain = free_port()
    site.broker.configure(f"listener {plain} 127.0.0.1\nallow_anonymous true")
    site.broker.restart()
    site.say(broker=f"mqtts://127.0.0.1:{plain}")

    assert site.found() == {Trouble.TLS_FAILED}


def test_a_server_that_is_no_broker_is_told(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("node.agent.reports.doctor_facts.CONNACK_SECONDS", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as mute:
        site.show_nothing()
        site.say(broker=f"mqtt://127.0.0.1:{mute.getsockname()[1]}")

        assert site.found() == {Trouble.BROKER_SILENT}


# The broker


def test_a_broker_that_refuses_the_login_is_told_with_its_reason(site: Site) -> None:
    assert isinstance(site.broker, Mosquitto)
    guarded = free_port()
    site.broker.configure(f"listener {guarded} 127.0.0.1\nallow_anonymous false")
    site.broker.restart()
    site.show_nothing()
    site.say(broker=f"mqtt://127.0.0.1:{guarded}")

    findings = diagnose(probe(site.path, wall=time.time))

    assert [(finding.code, finding.what) for finding in findings] == [
        (Trouble.BROKER_REFUSES, f"broker mqtt://127.0.0.1:{guarded} ended the connection at our CONNECT: Not authorized")
    ]


def test_a_broker_that_denies_the_subscription_is_told(site: Site) -> None:
    assert isinstance(site.broker, Mosquitto)
    plugin = next(Path("/usr/lib").glob("*/mosquitto_dynamic_security.so"), None)
    if plugin is None:
        pytest.skip("mosquitto's dynamic security plugin is not installed")  # mosquitto's plain access list never denies a SUBSCRIBE
    access = {"publishClientSend": False, "publishClientReceive": True, "subscribe": False, "unsubscribe": True}
    rules = site.folder / "rules.json"
    rules.write_text(json.dumps({"defaultACLAccess": access, "clients": [], "groups": [], "roles": []}))
    strict = free_port()
    site.broker.configure(f"listener {strict} 127.0.0.1\nallow_anonymous true\nplugin {plugin}\nplugin_opt_config_file {rules}")
    site.broker.restart()
    site.show_nothing()
    site.say(broker=f"mqtt://127.0.0.1:{strict}")

    assert site.found() == {Trouble.BROKER_DENIES}


def test_a_broker_where_no_hub_has_spoken_is_a_warning(mosquitto: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("node.agent.reports.doctor_facts.RETAINED_SECONDS", 0.5)

    assert Site(tmp_path, mosquitto).found() == {Trouble.BROKER_EMPTY}


def test_a_root_of_another_fleet_is_told(site: Site) -> None:
    (site.folder / "root.json").write_bytes(Fleet.make(site.folder / "other", now=datetime.now(UTC)).repository.root())

    assert site.found() == {Trouble.ROOT_OTHER_FLEET}


def test_a_hub_that_has_not_signed_for_days_is_told(site: Site) -> None:
    late = Fleet.make(site.folder / "late", now=datetime.now(UTC) - timedelta(days=3))
    (site.folder / "root.json").write_bytes(late.repository.root())
    site.retain(late.refresh(after=timedelta()))

    assert site.found() == {Trouble.METADATA_STALE}


def test_a_connected_agent_is_not_disturbed(site: Site) -> None:
    client = Client.of(site.broker, NAME)
    client.open()
    now = int(time.time())
    status = AgentStatus(
        node=NAME,
        fleet=FLEET,
        pid=os.getpid(),
        software="x",
        started_at=now,
        written_at=now,
        listen="x",
        online=True,
        since=now,
        answered_at=now,
    )
    with alone(site.data):
        write_status(site.data, status)
        found = site.found()
    client.subscribe("still/there")  # raises when the connection has ended
    client.link.close()

    assert found == set()
    assert not any(isinstance(event, Disconnected) for event in client.heard[:-1])


# The device


def test_the_clock_is_judged(site: Site) -> None:
    store = NodeStore(site.data / "node.sqlite")
    store.raise_fact("clock_floor", int(time.time()) + 100_000)
    store.close()

    assert Trouble.CLOCK_BEHIND in site.found()
    assert Trouble.CLOCK_NOT_SET in site.found(now=BUILD_TIME - 1)
    assert Trouble.CLOCK_AHEAD in site.found(now=time.time() + 50 * 365 * 86_400)


@pytest.mark.parametrize(
    ("content", "found"),
    [(None, Trouble.ROOT_UNREADABLE), (b"{}", Trouble.ROOT_INVALID), (b"\xff" * 100, Trouble.ROOT_INVALID)],
)
def test_a_root_that_is_none_is_told(site: Site, content: bytes | None, found: Trouble) -> None:
    (site.folder / "root.json").unlink()
    if content is not None:
        (site.folder / "root.json").write_bytes(content)

    assert site.found() == {found}


def test_settings_that_are_wrong_are_the_only_finding(site: Site) -> None:
    site.say(nonsense=1)
    assert site.found() == {Trouble.SETTINGS_INVALID}

    site.say(nonsense=None, broker="mqtt://127.0.0.1:1")  # TLS files, and no TLS
    assert site.found() == {Trouble.SETTINGS_INVALID}


def test_a_folder_that_cannot_be_written_is_told(site: Site) -> None:
    site.say(data="/proc/fleetcast")

    assert site.found() == {Trouble.FOLDER_NOT_WRITABLE}


def test_what_others_can_read_is_told(site: Site) -> None:
    site.data.chmod(0o755)
    Path(site.said["tls_key"]).chmod(0o644)

    assert site.found() == {Trouble.FOLDER_OPEN, Trouble.KEY_OPEN}


def test_damaged_files_are_told(site: Site) -> None:
    (site.data / "device.pem").write_text("no key")
    (site.data / "device.pem").chmod(0o600)
    (site.data / "node.sqlite").write_bytes(b"no database" * 1000)

    assert site.found() == {Trouble.KEY_UNREADABLE, Trouble.STORE_UNREADABLE}


def test_a_disk_without_room_is_told(site: Site) -> None:
    with small_disk(site.folder / "small") as disk:
        if shutil.disk_usage(disk).total > 1024 * 1024:
            pytest.skip("no small disk can be mounted here")
        disk.chmod(0o700)
        site.say(data=str(disk))

        assert site.found() == {Trouble.DISK_FULL}
        with (disk / "filler").open("wb") as file, contextlib.suppress(OSError):
            file.write(bytes(1024 * 1024))
        assert site.found() == {Trouble.DISK_FULL}


def test_what_is_served_is_judged_by_its_runtime_its_memory_and_the_room_that_it_takes(site: Site) -> None:
    data, manifest = bytes(2 * 1024 * 1024), None
    manifest, _ = release(data)
    variant = manifest.variants[0].model_copy(update={"runtime": "gpu9000"})
    manifest = manifest.model_copy(update={"variants": (variant,), "limits": Limits(memory_bytes_max=2**50)})
    digest = sha256(codec.encode(manifest))
    folder = site.data / "artifacts" / digest.hex()
    (folder / variant.name).mkdir(parents=True)
    (folder / "manifest.msgpack").write_bytes(codec.encode(manifest))
    (folder / variant.name / "model.onnx").write_bytes(data)
    serving = Target(version=manifest.version, digest=digest)
    store = NodeStore(site.data / "node.sqlite")
    slot = ModelSlot(model=manifest.model, state="active", serving=serving, target=serving)
    store.put_slot(slot, Move(number=1, at=1, event="settled", before="probation", after="active"))
    site.say(disk_bytes_max=len(data))
    assert site.found() == {Trouble.RUNTIME_ABSENT, Trouble.MEMORY_LIMITS, Trouble.DISK_QUOTA}

    store.put_evidence(digest, Evidence(memory_bytes=2**49), at=1)
    store.close()
    assert site.found() == {Trouble.RUNTIME_ABSENT, Trouble.MEMORY_SHORT, Trouble.DISK_QUOTA}


def test_a_port_that_somebody_else_has_is_told(site: Site) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        site.say(port=taken.getsockname()[1])

        assert site.found() == {Trouble.PORT_IN_USE}

    site.say(host="192.0.2.1")  # of no device: it is kept for documentation
    assert site.found() == {Trouble.PORT_UNUSABLE}


def test_a_port_that_the_service_manager_keeps_for_the_node_is_free(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as kept:
        site.say(port=kept.getsockname()[1])
        before = site.found()
        monkeypatch.setattr("node.agent.reports.doctor_facts.INIT", Path("/proc/self"))  # as if this process were it
        known = site.found()

    assert (before, known) == ({Trouble.PORT_IN_USE}, set())


def test_a_folder_of_another_user_is_told_and_the_broker_is_still_looked_at(site: Site) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can look as somebody else")
    with tempfile.TemporaryDirectory(dir="/tmp") as shared:  # pytest's own folders are closed to others
        Path(shared).chmod(0o755)
        (Path(shared) / "data").mkdir(mode=0o700)
        (Path(shared) / "node.toml").write_text(site.path.read_text())
        site.path = Path(shared) / "node.toml"
        site.show_nothing()
        site.say(broker=f"mqtt://127.0.0.1:{free_port()}")
        os.seteuid(65534)
        try:
            found = site.found()
        finally:
            os.seteuid(0)

    assert found == {Trouble.FOLDER_NOT_WRITABLE, Trouble.TCP_REFUSED}


def test_an_agent_that_was_killed_is_told(site: Site) -> None:
    write_status(
        site.data,
        AgentStatus(
            node=NAME, fleet=FLEET, pid=1, software="x", started_at=1, written_at=1, listen="x", online=True, since=1, answered_at=1
        ),
    )

    assert site.found() == {Trouble.AGENT_DIED}


# The command


def test_the_command_ends_with_0_1_or_2_and_prints_codes_and_mends(site: Site) -> None:
    def doctor(*more: str) -> subprocess.CompletedProcess[str]:
        return warm.run("fleetcast-node", "doctor", "--settings", site.path, *more)

    well = doctor()
    site.data.chmod(0o755)
    warned = doctor("--json")
    site.say(broker=f"mqtts://127.0.0.1:{free_port()}")
    troubled = doctor()

    assert (well.returncode, well.stdout, well.stderr) == (0, "Nothing is wrong.\n", "")
    assert (warned.returncode, [row["code"] for row in json.loads(warned.stdout)]) == (1, ["folder.open_to_others"])
    assert (troubled.returncode, troubled.stdout.splitlines()[0].endswith("[tcp.refused]")) == (2, True)
    assert "mend: see that the broker runs" in troubled.stdout
    assert list(site.data.glob(".doctor-*")) == []
