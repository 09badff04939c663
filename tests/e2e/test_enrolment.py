"""The whole road of a device, on mosquitto with our configuration: nothing is set up but by `fleetcast` and `fleetcast-node`."""

import json
import queue
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography import x509

from fleetcast.mqtt_connection import BrokerUrl, Connected, Disconnected, Link, TlsFiles
from schemas.topics import Topics
from tests import probed, warm
from tests.broker.client import Client
from tests.brokers import CONSUMER, Mosquitto, free_port
from tests.e2e.test_path import until
from tests.hub.cli.fleets import features, ridge

pytestmark = pytest.mark.timeout(400)
FLEET = "plant"


class Site:
    """A fleet, a mosquitto and devices in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.fleet = folder, folder / "fleet"
        self.hub_url = f"https://127.0.0.1:{free_port()}"
        self.processes: list[warm.Running] = []
        secret = folder / "secret"
        secret.write_text("test\n")
        secret.chmod(0o600)
        self.environment = {
            **warm.OF_INTERPRETER,
            "FLEETCAST_DIR": str(self.fleet),
            "FLEETCAST_PASSPHRASE_FILE": str(secret),
            "PATH": "/usr/bin:/bin:/usr/sbin",
        }

    def cli(self, *arguments: str, program: warm.Program = "fleetcast", code: int = 0, said: str = "") -> Any:
        done = warm.run(program, *arguments, "--json", env=self.environment, typed=said)
        assert done.returncode == code, f"{program} {arguments}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr
        return json.loads(done.stdout) if done.stdout.startswith(("{", "[")) else done.stderr

    def begin(self, *lines: str) -> None:
        self.cli("init", str(self.fleet), "--fleet", FLEET, "--model", "m", "--broker", "mqtts://127.0.0.1:1", "--hub-url", self.hub_url)
        self.cli("ca", "issue-server", "localhost", "--ip", "127.0.0.1")
        self.broker = Mosquitto(self.fleet / "broker", FLEET, ready=True)
        self.pid_file = self.folder / "mosquitto.pid"
        self.broker.configure(f"pid_file {self.pid_file}")
        self.broker.start()
        settings = self.fleet / "fleet.toml"
        text = settings.read_text().replace("mqtts://127.0.0.1:1", self.broker.url())
        settings.write_text(text + "\n".join([*lines, ""]))
        self.run("hub", "fleetcast", "hub", str(self.fleet), "--json-logs")
        until("the hub", (self.fleet / "hub.ready").exists)

    def run(self, name: str, program: warm.Program, *arguments: str) -> warm.Running:
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes.append(warm.start(program, *arguments, log=log, env=self.environment))
        return self.processes[-1]

    def enrol(self, node: str, *more: str) -> Path:
        """The device's settings, which are made by nothing but the command."""
        token = self.cli("enroll", "token", "--node", node, *more)["token"]
        settings = self.folder / node / "node.toml"
        settings.parent.mkdir()
        said = ("enroll", "--hub", self.hub_url, "--token", "-", "--settings", str(settings))
        assert self.cli(*said, program="fleetcast-node", said=f"{token}\n")["node"] == node
        return settings

    def start_node(self, settings: Path) -> warm.Running:
        self.environment["FLEETCAST_NODE_PORT"] = "0"
        probed.answer_in(settings.parent / "data")
        return self.run(settings.parent.name, "fleetcast-node", "run", "--settings", str(settings))

    def log(self, name: str, event: str) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in (self.folder / f"{name}.log").read_text().splitlines() if line.startswith("{")]
        return [line for line in lines if line.get("event") == event]

    def end(self) -> None:
        for process in reversed(self.processes):
            process.terminate()
        for process in self.processes:
            process.wait(100)
        self.broker.stop()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    yield made
    made.end()


def end(process: warm.Running) -> None:
    process.send_signal(signal.SIGTERM)
    process.wait(100)


def test_from_a_token_to_a_signed_receipt_and_out_of_the_fleet_again(site: Site) -> None:
    site.begin('enrolment = "required"')
    settings = site.enrol("gateway-17", "--label", "site=plant-7", "--cohort", "nyc")
    process = site.start_node(settings)
    until("the node", lambda: [one["node"] for one in site.cli("nodes")] == ["gateway-17"])

    (site.folder / "good.onnx").write_bytes(ridge())
    np.savez(site.folder / "good.npz", **features())
    site.cli("publish", str(site.folder / "good.onnx"), "--name", "m", "--version", "1.0.0", "--reference", str(site.folder / "good.npz"))
    site.cli("rollout", "start", "m@1.0.0", "--label", "site=plant-7", "--wait", "--timeout-seconds", "200")

    (node,) = site.cli("nodes")
    (enrolled,) = site.cli("enroll", "list")
    assert (node["cohort"], node["labels"]["site"]) == ("nyc", "plant-7")
    assert node["models"][0]["serving_version"] == "1.0.0"  # by its receipt, which the enrolled key has signed
    assert (enrolled["node"], enrolled["status"]) == ("gateway-17", "enrolled")

    # A consumer, by a certificate of the same authority at its own door.
    issued = site.cli("ca", "issue-client", CONSUMER)
    consumer = client(site.broker.url(CONSUMER), "grafana", TlsFiles(issued["authority"], issued["certificate"], issued["key"]))
    consumer.open()
    consumer.subscribe(Topics(FLEET).state("gateway-17"))
    assert consumer.messages(seconds=0, least=1)
    consumer.link.drop()

    # Out again: the hub ignores it at once, the broker at its next connection.
    revoked = site.cli("enroll", "revoke", "gateway-17", "--reload", str(site.pid_file))
    assert revoked["certificates_revoked"] == 1
    until("the hub to know", lambda: site.log("hub", "enrolment.revoked"))  # the goodbye is to come after that
    end(process)
    until("the hub's refusal", lambda: [one for one in site.log("hub", "message.refused") if one["code"] == "enrolment.revoked"])
    before = len(site.log("gateway-17", "broker.connected"))
    again = site.start_node(settings)
    until("mosquitto's refusal", lambda: "certificate verify failed" in (site.fleet / "broker" / "mosquitto.log").read_text())
    assert len(site.log("gateway-17", "broker.connected")) == before
    assert again.poll() is None  # it serves on
    assert site.cli("enroll", "list")[0]["status"] == "revoked"


def client(url: str, name: str, tls: TlsFiles) -> Client:
    inbox: queue.Queue[Any] = queue.Queue()
    return Client(Link(BrokerUrl.parse(url), client_id=name, inbox=inbox, session_expiry_seconds=0, tls=tls), inbox)


@pytest.mark.slow
def test_a_node_renews_at_half_of_a_short_life_and_comes_back_after_its_certificate_expired(site: Site) -> None:
    life_seconds = 30  # asked for after 12 to 15
    site.begin(f"certificate_days = {life_seconds / 86_400}")
    settings = site.enrol("gateway-17")
    certificate = settings.parent / "data" / "enrolment" / "node.crt"
    first = x509.load_pem_x509_certificate(certificate.read_bytes())
    process = site.start_node(settings)

    until("a renewal", lambda: site.log("gateway-17", "enrolment.renewed"))
    renewed = x509.load_pem_x509_certificate(certificate.read_bytes())
    assert {one["reason"] for one in site.log("gateway-17", "enrolment.renewal_started")} == {"age"}
    assert renewed.not_valid_after_utc > first.not_valid_after_utc
    assert site.log("gateway-17", "broker.disconnected") == []

    end(process)
    time.sleep(max(0.0, x509.load_pem_x509_certificate(certificate.read_bytes()).not_valid_after_utc.timestamp() - time.time()) + 1)
    files = TlsFiles(str(certificate.with_name("ca.crt")), str(certificate), str(settings.parent / "data" / "device.pem"))
    expired = client(site.broker.url(), "gateway-17", files)
    expired.link.open()
    assert isinstance(expired.next((Connected, Disconnected)), Disconnected)  # the broker does not take it any more
    expired.link.drop()
    connected = len(site.log("gateway-17", "broker.connected"))
    site.start_node(settings)
    until("the way back", lambda: len(site.log("gateway-17", "broker.connected")) > connected)
    assert x509.load_pem_x509_certificate(certificate.read_bytes()).not_valid_after_utc.timestamp() > time.time()


def test_operators_hear_in_words_what_cannot_be_done(site: Site) -> None:
    site.begin()
    site.enrol("gateway-17")

    assert "is enrolled already" in site.cli("enroll", "token", "--node", "gateway-17", code=6)["error"]["reason"]
    assert "reserved" in site.cli("enroll", "token", "--node", "hub", code=3)["error"]["reason"]
    assert "no node 'gateway-99'" in site.cli("enroll", "revoke", "gateway-99", code=3)["error"]["reason"]
    assert "an enrolled node" in site.cli("ca", "issue-client", "gateway-17", code=3)["error"]["reason"]
    assert "has one authority" in site.cli("ca", "init", code=6)["error"]["reason"]
    assert "--expires" in site.cli("enroll", "token", "--node", "a", "--expires", "forever", code=2)["error"]["reason"]
    assert len(site.cli("enroll", "token", "--node", "gate", "--count", "12")) == 12
    assert {one["node"] for one in site.cli("enroll", "list", "--tokens")} == {f"gate-{number:02d}" for number in range(1, 13)}
    assert {one["kind"] for one in site.cli("ca", "show")} == {"authority", "server", "client"}
    assert site.cli("ca", "renew-issuer")["expires"] > site.cli("ca", "show")[1]["expires"][:10]
    # The same device, with a new token in its own place: its earlier certificate goes on the list.
    token = site.cli("enroll", "token", "--node", "gateway-17", "--replace")["token"]
    device = site.folder / "other" / "node.toml"
    device.parent.mkdir()
    site.cli("enroll", "--hub", site.hub_url, "--token", token, "--settings", str(device), program="fleetcast-node")
    crl = site.fleet / "broker" / "tls" / "revoked.crl"
    until("the list", lambda: len(list(x509.load_pem_x509_crl(crl.read_bytes()))) == 1)
