"""A bad link: a TCP proxy that is slow, late, stalls, tears and falls silent as told, and counts. The kernel here has no netem."""

import contextlib
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

CHUNK_BYTES = 4096  # forwarded at a time: a rate of 2,500 bytes a second then still is one
QUEUE_BYTES = 64 * 1024  # that a slow road holds before it stops reading, as a modem's buffer does


@dataclass(frozen=True, slots=True)
class Weather:
    """What a road is like; times in seconds, rates in bytes a second for each direction."""

    rate: float = float("inf")
    latency: float = 0.0
    stall_every: float = 0.0  # on average; nothing moves for `stall` then
    stall: float = 0.0
    reset_every: float = 0.0  # on average; the connection is torn
    up: float = 0.0  # with `down`: so long it works, then so long nothing gets through and nobody is told
    down: float = 0.0


@dataclass(slots=True)
class Road:
    """Between one or more clients and a broker; `down_bytes` went to clients, `up_bytes` to the broker."""

    broker_port: int
    weather: Weather = Weather()
    seed: int = 0
    port: int = 0
    up_bytes: int = 0
    down_bytes: int = 0
    cuts: int = 0
    _listener: socket.socket = field(init=False)
    _pairs: list[tuple[socket.socket, socket.socket]] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _began: float = field(default_factory=time.monotonic)
    _silent: bool = False
    _closed: bool = False

    def __post_init__(self) -> None:
        """Begin to listen."""
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()
        if self.weather.reset_every:
            threading.Thread(target=self._reset_now_and_then, daemon=True).start()

    def close(self) -> None:
        """End everything."""
        self._closed = True
        self._listener.close()
        self.cut()

    def cut(self) -> None:
        """Tear every connection."""
        with self._lock:
            pairs, self._pairs = self._pairs, []
        for pair in pairs:
            for end in pair:
                with contextlib.suppress(OSError):
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # a reset, not a goodbye
                    end.shutdown(socket.SHUT_RDWR)
        self.cuts += bool(pairs)

    def fall_silent(self, silent: bool = True) -> None:
        """Half-open: what is sent goes nowhere, and nobody is told."""
        self._silent = silent

    def _is_down(self) -> bool:
        weather = self.weather
        return self._silent or bool(weather.down and (time.monotonic() - self._began) % (weather.up + weather.down) >= weather.up)

    def _reset_now_and_then(self) -> None:
        rng = Random(self.seed)
        while not self._closed:
            time.sleep(rng.expovariate(1 / self.weather.reset_every))
            self.cut()

    def _accept(self) -> None:
        number = 0
        while not self._closed:
            try:
                near, _ = self._listener.accept()
                far = socket.create_connection(("127.0.0.1", self.broker_port))
            except OSError:
                if self._closed:
                    return
                with contextlib.suppress(OSError, UnboundLocalError):
                    near.close()  # the broker is not there
                time.sleep(0.05)
                continue
            for end in (near, far):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, QUEUE_BYTES)
                end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, QUEUE_BYTES)
            with self._lock:
                self._pairs.append((near, far))
            number += 1
            for direction, (source, sink) in enumerate(((near, far), (far, near))):
                rng = Random(self.seed * 1000 + number * 2 + direction)
                threading.Thread(target=self._carry, args=(source, sink, direction == 0, rng), daemon=True).start()

    def _carry(self, source: socket.socket, sink: socket.socket, is_up: bool, rng: Random) -> None:
        """Read at the road's rate, write what is late enough; one thread for each end of the pipe."""
        pipe: list[tuple[float, bytes]] = []
        ready, ended = threading.Condition(), [False]
        writer = threading.Thread(target=self._write, args=(pipe, ready, ended, sink, is_up), daemon=True)
        writer.start()
        weather, free_at = self.weather, time.monotonic()
        stall_at = free_at + rng.expovariate(1 / weather.stall_every) if weather.stall_every else float("inf")
        with contextlib.suppress(OSError):
            while data := source.recv(CHUNK_BYTES if weather.rate < 1e6 else 1 << 18):
                now = time.monotonic()
                if now >= stall_at:
                    free_at = now + weather.stall
                    stall_at = free_at + rng.expovariate(1 / weather.stall_every)
                free_at = max(now, free_at) + len(data) / weather.rate
                with ready:
                    pipe.append((free_at + weather.latency, data))
                    ready.notify()
                if free_at > now:
                    time.sleep(free_at - now)
        with ready:
            ended[0] = True
            ready.notify()

    def _write(
        self, pipe: list[tuple[float, bytes]], ready: threading.Condition, ended: list[bool], sink: socket.socket, is_up: bool
    ) -> None:
        with contextlib.suppress(OSError):
            while True:
                with ready:
                    while not pipe and not ended[0]:
                        ready.wait()
                    if not pipe:
                        break
                    due, data = pipe.pop(0)
                _wait_until(lambda due=due: time.monotonic() >= due and not self._is_down())  # type: ignore[misc]
                sink.sendall(data)
                if is_up:
                    self.up_bytes += len(data)
                else:
                    self.down_bytes += len(data)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_RDWR)


def _wait_until(so: Callable[[], bool]) -> None:
    while not so():
        time.sleep(0.005)
