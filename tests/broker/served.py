"""Start brokers as they are asked: on loopback, without certificates and lists, with nothing in their memory."""

import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from hub.service.broker.rumqttd import EmbeddedBroker
from tests.brokers import answers, free_port
from tests.cluster import build, nodes

START_SECONDS = 60.0


class Absent(Exception):
    """The broker is not installed here."""


class Served(Protocol):
    """A broker that is asked."""

    version: str

    @property
    def ports(self) -> Sequence[int]:
        """Of the broker, or of each broker of a cluster."""

    def start(self) -> None:
        """Start it, and wait until it answers."""

    def stop(self) -> None:
        """End it."""


class Embedded:
    """The one in the hub."""

    def __init__(self, folder: Path) -> None:
        self.ports = (free_port(),)
        self._broker = EmbeddedBroker(self.ports[0], folder)
        from importlib.metadata import version

        self.version = f"rumqttd of iotcore {version('iotcore')}"

    def start(self) -> None:
        self._broker.start()
        self._broker.wait_ready(seconds=START_SECONDS)

    def stop(self) -> None:
        self._broker.stop()


class Program:
    """Any broker that is a program with a file of configuration."""

    def __init__(self, folder: Path, version: str, command: list[str], port: int) -> None:
        self.folder, self.version, self._command, self.port = folder, version, command, port
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def ports(self) -> Sequence[int]:
        return (self.port,)

    def start(self) -> None:
        with (self.folder / "broker.log").open("ab") as log:
            self._process = subprocess.Popen(self._command, cwd=self.folder, stdout=log, stderr=log)
        deadline = time.monotonic() + START_SECONDS
        while not answers(self.port):
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{self.version} did not start:\n{(self.folder / 'broker.log').read_text()[-2000:]}")
            time.sleep(0.05)

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(60)


class PlainMosquitto(Program):
    """Debian's mosquitto, with the bounds of broker-config/mosquitto.conf."""

    def __init__(self, folder: Path) -> None:
        found = shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
        if found is None:
            raise Absent("apt-get install mosquitto")
        said = subprocess.run([found, "-h"], capture_output=True, text=True, check=False).stdout
        numbers = re.search(r"version (\S+)", said)
        super().__init__(folder, f"mosquitto {numbers[1] if numbers else ''}".strip(), [found, "-c", "mosquitto.conf"], free_port())
        bounds = "max_queued_messages 65000\nmax_queued_bytes 67108864\nmax_inflight_messages 64\nset_tcp_nodelay true\n"
        user = "user root\n" if os.getuid() == 0 else ""
        (folder / "mosquitto.conf").write_text(f"listener {self.port} 127.0.0.1\nallow_anonymous true\n{user}{bounds}")


class Mochi(Program):
    """A broker written in Go, which other programs build in, with the command that is its example."""

    VERSION = "2.7.9"

    def __init__(self, folder: Path) -> None:
        place = build.CACHE / f"mochi-{self.VERSION}"
        if not (place / "cmd").is_file():
            raise Absent(f"GOBIN={place} go install github.com/mochi-mqtt/server/v2/cmd@v{self.VERSION}")
        ports = {name: free_port() for name in ("tcp", "ws", "info")}
        named = [f"--{name}=127.0.0.1:{port}" for name, port in ports.items()]
        super().__init__(folder, f"mochi {self.VERSION}", [str(place / "cmd"), *named], ports["tcp"])


class Rmqtt:
    """One rmqttd by itself, or three."""

    def __init__(self, folder: Path, count: int = 1) -> None:
        program = build.program()
        if program is None:
            raise Absent("make test-cluster builds it")
        self._cluster = nodes.Cluster(folder, program, count=count, secured=False)
        self.version = f"rmqttd {build.VERSION}" + (f", {count} nodes" if count > 1 else "")
        self.ports = [node.port for node in self._cluster.nodes]

    def start(self) -> None:
        self._cluster.start()

    def stop(self) -> None:
        self._cluster.stop()


KINDS: dict[str, Callable[[Path], Served]] = {
    "embedded": Embedded,
    "mosquitto": PlainMosquitto,
    "mochi": Mochi,
    "rmqtt": Rmqtt,
    "rmqtt-cluster": lambda folder: Rmqtt(folder, count=3),
}
