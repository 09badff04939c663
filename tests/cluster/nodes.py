"""A cluster of rmqttd on loopback, with the very files of broker-config/rmqtt/: as in production, but for ids, addresses and paths."""

import re
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

from fleetcast.mqtt_connection import TlsFiles
from schemas import topics
from tests.brokers import CONFIG, FLEET, Authority, answers, free_port

START_SECONDS = 90.0
PLAIN = "[listener.tcp.fleet]\n"


@dataclass(slots=True)
class Node:
    """One broker of the cluster."""

    number: int
    folder: Path
    program: Path
    port: int = field(default_factory=free_port)
    grpc_port: int = field(default_factory=free_port)
    raft_port: int = field(default_factory=free_port)
    process: "subprocess.Popen[bytes] | None" = None

    def start(self) -> None:
        """Start it; `wait` waits until it answers."""
        with (self.folder / "broker.log").open("ab") as log:
            self.process = subprocess.Popen([self.program, "-f", "rmqtt.toml"], cwd=self.folder, stdout=log, stderr=log)

    def wait(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not answers(self.port):
            if self.process is None or self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"node {self.number} did not start:\n{(self.folder / 'broker.log').read_text()[-3000:]}")
            time.sleep(0.1)

    def kill(self) -> None:
        """End it with SIGKILL."""
        if self.process is not None:
            self.process.kill()
            self.process.wait(60)

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.kill()


class Cluster:
    """Some brokers that are one; `secured`: certificates and lists, as in production."""

    kind = "rmqtt"

    def __init__(self, folder: Path, program: Path, *, count: int = 3, secured: bool = True, fleet: str = FLEET) -> None:
        self.nodes = [Node(number, folder / f"node-{number}", program) for number in range(1, count + 1)]
        self._authority = Authority(folder / "tls") if secured else None
        for node in self.nodes:
            self._configure(node, fleet)

    def _configure(self, node: Node, fleet: str) -> None:
        (node.folder / "plugins").mkdir(parents=True)
        text = (CONFIG / "rmqtt" / "rmqtt.toml").read_text()
        text = _replaced(text, r"node\.id = 1\n", f"node.id = {node.number}\n")
        text = _replaced(text, r'"0\.0\.0\.0:5363"', f'"127.0.0.1:{node.grpc_port}"')
        text = _replaced(text, r'"0\.0\.0\.0:8883"', f'"127.0.0.1:{node.port}"')
        if len(self.nodes) == 1:
            text = _replaced(text, r', "rmqtt-cluster-raft"', "")
        if self._authority is not None:
            server, tls = self._authority.issue("server", server=True), self._authority.directory
            for name, path in (("server.crt", server.certificate), ("server.key", server.key), ("ca.crt", str(tls / "ca.crt"))):
                text = _replaced(text, rf'"tls/{re.escape(name)}"', f'"{path}"')
            rules = topics.rmqtt_access_list(fleet)
        else:
            text = text.replace("[listener.tls.fleet]\n", PLAIN).replace("allow_anonymous = false", "allow_anonymous = true")
            text = re.sub(r"(?m)^(cert|key|client_ca_certs|cross_certificate|cert_cn_as_username) = .*\n", "", text)
            rules = 'rules = [["allow", "all"]]\n'
        (node.folder / "rmqtt.toml").write_text(text)
        (node.folder / "plugins" / "rmqtt-acl.toml").write_text(rules)
        for path in (CONFIG / "rmqtt" / "plugins").glob("*.toml"):
            if path.name == "rmqtt-acl.toml":
                continue
            told = path.read_text()
            for one in self.nodes:
                told = told.replace(f'"{one.number}@10.0.0.{one.number}:5363"', f'"{one.number}@127.0.0.1:{one.grpc_port}"')
                told = told.replace(f'"{one.number}@10.0.0.{one.number}:6003"', f'"{one.number}@127.0.0.1:{one.raft_port}"')
            (node.folder / "plugins" / path.name).write_text(told)

    def start(self) -> None:
        """Start all, the first one first: it leads."""
        for node in self.nodes:
            node.start()
            time.sleep(0.5)
        for node in self.nodes:
            node.wait()

    def stop(self) -> None:
        for node in self.nodes:
            node.stop()

    def url(self, user: str = "hub", *, node: int = 0) -> str:
        """Where this user connects."""
        return f"{'mqtts' if self._authority else 'mqtt'}://127.0.0.1:{self.nodes[node].port}"

    def tls(self, user: str = "hub") -> TlsFiles | None:
        return self._authority.issue(user) if self._authority else None


def _replaced(text: str, found: str, wanted: str) -> str:
    made, count = re.subn(found, wanted, text)
    assert count == 1, f"rmqtt.toml must say {found!r} once, and does {count} times"
    return made
