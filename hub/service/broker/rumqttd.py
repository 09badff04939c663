"""Runs the broker that comes with the hub: rumqttd (from `iotcore`) as a child process on loopback. Knows no topic, document or policy.

For a demonstration, a lab and tests, not for production: it has neither TLS client certificates nor topic rules, so it binds 127.0.0.1
only. It keeps everything in memory, forgets all of it when it ends, and never frees the log of a topic filter that was subscribed to once:
262 MB of blocks cost it 417 MB. Past its log it drops QoS 1 messages of a slow subscriber without a word. All of this is survived by
design (a node that misses something asks again), but a fleet that stays belongs on a broker of its own: see broker-config/README.md.
"""

import contextlib
import logging
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

from schemas.errors import Code, Refused, Unreachable
from schemas.limits import MIB, PACKET_BYTES_MAX

HOST = "127.0.0.1"
CONFIG_NAME = "embedded.toml"
CONNECTIONS_MAX = 10_000
INFLIGHT_MAX = 100  # unacknowledged messages to one client
SEGMENT_BYTES = 16 * MIB  # a topic filter's log is at most 10 of these, and the oldest is dropped
SEGMENTS_MAX = 10
POLL_SECONDS = 0.02
STOP_SECONDS = 5.0

# MQTT 5 is spoken only by a listener of a [v5.*] section; iotcore's plain arguments mean 3.1.1, 20 KiB and all interfaces.
_TOML = """\
# Written by hub/service/broker/rumqttd.py at every start: changes here are lost.
id = 0

[router]
id = 0
max_connections = {connections}
max_outgoing_packet_count = 200
max_segment_size = {segment_bytes}
max_segment_count = {segments}

[v5.1]
name = "fleetcast"
listen = "{host}:{port}"
next_connection_delay_ms = 1

[v5.1.connections]
connection_timeout_ms = 10000
max_payload_size = {packet_bytes}
max_inflight_count = {inflight}
dynamic_filters = true
"""


class EmbeddedBroker:
    """Run one child process, which ends with its parent, however that ends. Its owner looks at `poll` and calls `start` again."""

    def __init__(self, port: int, directory: Path) -> None:
        self.port = port
        self.url = f"mqtt://{HOST}:{port}"
        self._config = directory / CONFIG_NAME
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """Return the child's process id; None when it was never started or has been stopped."""
        return self._process.pid if self._process else None

    def start(self) -> None:
        """Start the child, with nothing in its memory; `wait_ready` tells when it answers. Does nothing while one runs.

        Raises:
            Refused: something else has the port.
        """
        if self._process is not None and self._process.poll() is None:
            return
        self._reap()
        _check_port(self.port)
        self._config.parent.mkdir(parents=True, exist_ok=True)
        self._config.write_text(
            _TOML.format(
                connections=CONNECTIONS_MAX,
                segment_bytes=SEGMENT_BYTES,
                segments=SEGMENTS_MAX,
                host=HOST,
                port=self.port,
                packet_bytes=PACKET_BYTES_MAX,
                inflight=INFLIGHT_MAX,
            )
        )
        # -P: a file named like a package of ours in the present folder must not become the broker. A group of its own: Ctrl-C at the hub
        # must not take the broker away before the hub has said goodbye to it.
        command = [sys.executable, "-P", "-m", "hub.service.broker.rumqttd", str(self._config)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True)

    def wait_ready(self, *, seconds: float = 30.0) -> None:
        """Return as soon as the broker answers.

        Raises:
            Refused: it ended at once because something else took the port.
            Unreachable: it ended for another reason, or has not answered in time.
        """
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            code = self.poll()
            if code is not None:
                _check_port(self.port)
                raise Unreachable(f"the embedded broker ended with exit code {code}; its configuration is {self._config}")
            with contextlib.suppress(OSError), socket.create_connection((HOST, self.port), timeout=1):
                return
            time.sleep(POLL_SECONDS)
        raise Unreachable(f"the embedded broker did not answer on {HOST}:{self.port} within {seconds:g} s")

    def poll(self) -> int | None:
        """Return the child's exit code; None while it runs.

        Raises:
            RuntimeError: it was never started.
        """
        if self._process is None:
            raise RuntimeError("the embedded broker was not started")
        return self._process.poll()

    def stop(self) -> None:
        """End the child, if it runs; its memory is gone."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
        self._reap()

    def _reap(self) -> None:
        if self._process is not None:
            self._process.wait()
            if self._process.stdin is not None:
                self._process.stdin.close()
            self._process = None


def _check_port(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the broker does: connections of one just ended do not count
        try:
            probe.bind((HOST, port))
        except OSError as error:
            reason = f"port {port} on {HOST} cannot be the embedded broker's: {error.strerror}; give another port, or a broker's URL"
            raise Refused(Code.PORT_IN_USE, reason) from None


def _end_with_parent() -> None:
    sys.stdin.buffer.read()  # returns when the parent's end of the pipe closes, also by kill -9
    os._exit(0)


def main(config: str) -> None:
    """Run as the broker until the parent is gone."""
    import iotcore  # noqa: PLC0415  # the parent needs nothing of it

    # rumqttd tells every packet as an ERROR record, through spans; its real errors come as an exit code.
    logging.getLogger("rumqttd").setLevel(logging.CRITICAL)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    iotcore.Broker(config_path=config).run_forever()


if __name__ == "__main__":
    main(sys.argv[1])
