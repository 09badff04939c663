"""Serve a guest's disk that forgets, as a real one does when its power is cut, what it was not yet asked to flush.

qemu writes what its guest has written to a file of the host, whose page cache outlives qemu: ending qemu loses nothing that the guest has
issued, flushed or not. So the disk is served by NBD from here. Each write since the last flush survives a cut, or does not, or is torn
between two sectors, as the seed has it, in no order: a drive's own cache promises no more.
"""

import os
import random
import socket
import struct
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Final

SECTOR_BYTES: Final = 512
_INIT, _OPTION, _OPTION_REPLY = 0x4E42444D41474943, 0x49484156454F5054, 0x3E889045565A9
_REQUEST, _REPLY = 0x25609513, 0x67446698
_FIXED_NEWSTYLE, _NO_ZEROES = 1, 2
_OPT_ABORT, _OPT_GO = 2, 7
_REP_ACK, _REP_INFO, _REP_UNSUPPORTED = 1, 3, 2**31 + 1
_READ, _WRITE, _DISCONNECT, _FLUSH = 0, 1, 2, 3
_HAS_FLAGS, _SEND_FLUSH, _SEND_FUA = 1, 4, 8
_FUA: Final = 1
_EINVAL: Final = 22


@dataclass(frozen=True, slots=True)
class _Write:
    """Hold one write since the last flush."""

    offset: int
    before: bytes
    after: bytes
    forced: bool  # it was asked to be durable by itself


@dataclass(frozen=True, slots=True)
class Lost:
    """Count what a cut did to writes that were not flushed."""

    writes: int
    kept: int
    torn: int
    lost: int


class VolatileDisk:
    """Keep a file's content, and what was written to it since the last flush."""

    def __init__(self, path: Path) -> None:
        self.bytes = path.stat().st_size
        self._file = os.open(path, os.O_RDWR)
        self._writes: list[_Write] = []

    def read(self, offset: int, length: int) -> bytes:
        """Return what a running guest sees: all that was written."""
        return os.pread(self._file, length, offset).ljust(length, b"\0")

    def write(self, offset: int, data: bytes, *, forced: bool = False) -> None:
        """Take a write; without `forced` it is durable at the next flush only."""
        self._writes.append(_Write(offset, self.read(offset, len(data)), data, forced))
        os.pwrite(self._file, data, offset)

    def flush(self) -> None:
        """Have everything before be durable."""
        self._writes.clear()

    def cut(self, rng: random.Random) -> Lost:
        """Lose the power: of what was not flushed, some is kept, some is torn, some is lost."""
        for one in reversed(self._writes):
            os.pwrite(self._file, one.before, one.offset)
        share = rng.choice((0.0, 0.5, 0.9))
        kept = torn = 0
        for one in self._writes:
            if one.forced or rng.random() < share:
                os.pwrite(self._file, one.after, one.offset)
                kept += 1
            elif share and len(one.after) > SECTOR_BYTES and rng.random() < 0.2:
                sectors = rng.randrange(1, len(one.after) // SECTOR_BYTES) if len(one.after) >= 2 * SECTOR_BYTES else 1
                os.pwrite(self._file, one.after[: sectors * SECTOR_BYTES], one.offset)
                torn += 1
        lost = Lost(len(self._writes), kept, torn, len(self._writes) - kept - torn)
        self._writes.clear()
        return lost

    def close(self) -> None:
        """Release the file."""
        os.close(self._file)


class DiskServer:
    """Serve a disk to one qemu after the other, by NBD on a Unix socket."""

    def __init__(self, disk: VolatileDisk, path: Path) -> None:
        self._disk, self.path = disk, path
        self._listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listening.bind(str(path))
        self._listening.listen(1)
        self._thread: threading.Thread | None = None
        self.error: BaseException | None = None

    def serve_next(self) -> None:
        """Serve the next connection, beside."""
        self._thread = threading.Thread(target=self._serve, name="disk", daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Wait until the connection has ended, as it does when its qemu has."""
        if self._thread is not None:
            self._thread.join(60)
            assert not self._thread.is_alive(), "the disk's connection lives on"
        if self.error is not None:
            raise self.error

    def close(self) -> None:
        """Listen no more."""
        self._listening.close()
        self.path.unlink(missing_ok=True)

    def _serve(self) -> None:
        try:
            connection, _ = self._listening.accept()
            with connection:
                if self._negotiated(connection):
                    self._transmit(connection)
        except (ConnectionError, EOFError):
            pass  # qemu was ended
        except BaseException as error:
            self.error = error

    def _negotiated(self, connection: socket.socket) -> bool:
        connection.sendall(struct.pack(">QQH", _INIT, _OPTION, _FIXED_NEWSTYLE | _NO_ZEROES))
        _received(connection, 4)
        while True:
            _, option, length = struct.unpack(">QII", _received(connection, 16))
            _received(connection, length)

            def reply(kind: int, data: bytes = b"", option: int = option) -> None:
                connection.sendall(struct.pack(">QIII", _OPTION_REPLY, option, kind, len(data)) + data)

            if option == _OPT_GO:
                reply(_REP_INFO, struct.pack(">HQH", 0, self._disk.bytes, _HAS_FLAGS | _SEND_FLUSH | _SEND_FUA))
                reply(_REP_ACK)
                return True
            if option == _OPT_ABORT:
                reply(_REP_ACK)
                return False
            reply(_REP_UNSUPPORTED)

    def _transmit(self, connection: socket.socket) -> None:
        while True:
            _, flags, kind, handle, offset, length = struct.unpack(">IHHQQI", _received(connection, 28))
            data, error = b"", 0
            if kind == _READ:
                data = self._disk.read(offset, length)
            elif kind == _WRITE:
                self._disk.write(offset, _received(connection, length), forced=bool(flags & _FUA))
            elif kind == _FLUSH:
                self._disk.flush()
            elif kind == _DISCONNECT:
                return
            else:
                error = _EINVAL
            connection.sendall(struct.pack(">IIQ", _REPLY, error, handle) + data)


def _received(connection: socket.socket, length: int) -> bytes:
    data = bytearray()
    while len(data) < length:
        part = connection.recv(min(1 << 20, length - len(data)))
        if not part:
            raise EOFError
        data += part
    return bytes(data)
