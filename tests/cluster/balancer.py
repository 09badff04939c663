"""The one address of a cluster: a TCP balancer, which gives each connection to the next broker that answers."""

import contextlib
import socket
import threading
from collections.abc import Sequence


class Balancer:
    """Between clients and the brokers of a cluster, on loopback."""

    def __init__(self, ports: Sequence[int]) -> None:
        self._ports = list(ports)
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.port = self._listener.getsockname()[1]
        self.last = 0  # Port of the broker that the last connection was given to.
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Take no more connections."""
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            far = self._next()
            if far is None:
                near.close()
                continue
            for one in (near, far):
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=_carry, args=(source, sink), daemon=True).start()

    def _next(self) -> socket.socket | None:
        for _ in self._ports:
            port = self._ports.pop(0)
            self._ports.append(port)
            with contextlib.suppress(OSError):
                found = socket.create_connection(("127.0.0.1", port), timeout=2)
                found.settimeout(None)
                self.last = port
                return found
        return None


def _carry(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            sink.sendall(data)
    for one in (source, sink):
        with contextlib.suppress(OSError):
            one.shutdown(socket.SHUT_RDWR)
