"""Emulate a slow link between a site and its broker: a TCP proxy that limits the bytes per second towards the site."""

import contextlib
import socket
import struct
import threading
import time

CHUNK_BYTES = 16 * 1024


class SlowLink:
    """Listen on a free loopback port and carry every connection to the broker's, slowed down in the direction of the node."""

    def __init__(self, broker_port: int, *, bytes_per_second: int) -> None:
        self._broker_port, self._bytes_per_second = broker_port, bytes_per_second
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.open = True  # Whether it accepts connections.
        self._ends: set[socket.socket] = set()
        self._lock = threading.Lock()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            if not self.open:
                near.close()
                continue
            try:
                far = socket.create_connection(("127.0.0.1", self._broker_port), timeout=5)
            except OSError:
                near.close()  # The broker is down, so the link is down.
                continue
            for end in (near, far):
                end.settimeout(None)
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            # The proxy's own buffers must not hold a whole release, or the link would not be slow.
            far.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)
            near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 64 * 1024)
            with self._lock:
                self._ends |= {near, far}
            threading.Thread(target=self._carry, args=(near, far, None), daemon=True).start()
            threading.Thread(target=self._carry, args=(far, near, self._bytes_per_second), daemon=True).start()

    def _carry(self, source: socket.socket, sink: socket.socket, bytes_per_second: int | None) -> None:
        try:
            while data := source.recv(CHUNK_BYTES):
                sink.sendall(data)
                if bytes_per_second:
                    time.sleep(len(data) / bytes_per_second)
        except OSError:
            pass
        for end in (source, sink):
            with self._lock:
                self._ends.discard(end)
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def cut(self) -> bool:
        """Reset every connection that it carries; return whether there was one."""
        with self._lock:
            ends, self._ends = self._ends, set()
        for end in ends:
            with contextlib.suppress(OSError):
                # Nothing that was written before arrives any more.
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                end.shutdown(socket.SHUT_RDWR)
        return bool(ends)

    def close(self) -> None:
        """Accept no more connections."""
        self._listener.close()
