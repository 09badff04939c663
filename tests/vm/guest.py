"""Boot the image under qemu, listen to its console, ask through its channel, and cut its power."""

import json
import queue
import random
import re
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tests.vm.disk import DiskServer, Lost, VolatileDisk
from tests.vm.image import Image

QEMU: Final = "qemu-system-x86_64"
MEMORY_MIB: Final = 2048
BOOT_SECONDS: Final = 600
STEP_SECONDS: Final = 300  # in software emulation on a busy machine, a command that imports much takes half a minute
_LINE: Final = re.compile(r"(?P<unit>[\w.@-]+)\[\d+\]: (?P<text>\{.*\})\s*$")


class GuestDied(Exception):
    """Tell that qemu ended by itself, or that its guest answers no more."""


@dataclass(frozen=True, slots=True)
class Event:
    """Hold one log line of hub or node."""

    unit: str
    body: dict[str, Any]

    @property
    def name(self) -> str:
        """Return the event's name."""
        return str(self.body.get("event", ""))


@dataclass(frozen=True, slots=True)
class Done:
    """Hold what came of a command inside."""

    code: int
    out: str
    err: str


@dataclass
class Guest:
    """Run one machine, over as many boots as its power allows."""

    image: Image
    folder: Path
    accelerator: str = "tcg,thread=multi"
    events: list[Event] = field(default_factory=list)
    boots: int = 0

    def __post_init__(self) -> None:
        self._disk = VolatileDisk(self.image.disk)
        self._server = DiskServer(self._disk, self.folder / "disk.sock")
        self._qemu: subprocess.Popen[bytes] | None = None
        self._news = threading.Condition()
        self._replies: dict[int, queue.Queue[dict[str, Any]]] = {}
        self._asked, self._asking = 0, threading.Lock()

    # Power

    def boot(self) -> float:
        """Switch it on; the seconds until its channel answers."""
        began = time.monotonic()
        path = self.folder / "ctl.sock"
        path.unlink(missing_ok=True)
        self.events.clear()
        self._replies.clear()
        self._server.serve_next()
        self.boots += 1
        with (self.folder / "qemu.log").open("ab") as log:
            self._qemu = subprocess.Popen(self._command(path), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log)
        threading.Thread(target=self._listen, args=(self._qemu,), name="console", daemon=True).start()
        self._channel = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._until("qemu's channel", path.exists, 60)
        self._channel.connect(str(path))
        threading.Thread(target=self._hear, args=(self._channel,), name="channel", daemon=True).start()
        while True:
            self._check()
            if time.monotonic() - began > BOOT_SECONDS:
                raise GuestDied(f"no answer {BOOT_SECONDS} s after it was switched on: {self.folder / 'console.log'}")
            try:
                self.ask("hello", seconds=5)
                return time.monotonic() - began
            except TimeoutError:
                continue

    def cut(self, rng: random.Random) -> Lost:
        """Cut its power, now."""
        assert self._qemu is not None
        self._qemu.send_signal(signal.SIGKILL)
        self._qemu.wait(60)
        self._server.wait()
        self._channel.close()
        self._qemu = None
        return self._disk.cut(rng)

    def close(self) -> None:
        """End everything."""
        if self._qemu is not None:
            self._qemu.kill()
            self._qemu.wait(60)
        self._server.close()
        self._disk.close()

    def _command(self, channel: Path) -> list[str]:
        # What is left of a run that was killed must not go on for ever; and others on this machine come first.
        before = ("setpriv", "--pdeathsig", "KILL", "nice", "-n", "15")
        kernel = "root=/dev/vda rw console=ttyS0 quiet panic=-1 mitigations=off systemd.show_status=no nowatchdog"
        return [
            *(*before, QEMU, "-accel", self.accelerator, "-machine", "pc", "-cpu", "max", "-smp", "2", "-m", str(MEMORY_MIB)),
            *("-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-nic", "none", "-rtc", "base=utc"),
            *("-kernel", str(self.image.kernel), "-initrd", str(self.image.initrd), "-append", kernel),
            *("-drive", f"if=virtio,format=raw,cache=writeback,file=nbd:unix:{self._server.path}"),
            *("-device", "virtio-rng-pci", "-device", "virtio-serial-pci"),
            *("-serial", f"file:{self.folder / 'kernel.log'}"),
            *("-chardev", "stdio,id=con,signal=off", "-device", "virtconsole,chardev=con"),
            *("-chardev", f"socket,id=ctl,path={channel},server=on,wait=off", "-device", "virtserialport,chardev=ctl,name=ctl"),
        ]

    def _check(self) -> None:
        if self._qemu is None or self._qemu.poll() is not None:
            raise GuestDied(f"qemu ended by itself: {self.folder / 'qemu.log'}, {self.folder / 'kernel.log'}")

    # Console

    def _listen(self, qemu: subprocess.Popen[bytes]) -> None:
        assert qemu.stdout is not None
        with (self.folder / "console.log").open("ab") as log:
            for line in qemu.stdout:
                log.write(line)
                log.flush()
                found = _LINE.search(line.decode(errors="replace").rstrip("\r\n"))
                if found is None:
                    continue
                try:
                    body = json.loads(found["text"])
                except ValueError:
                    continue
                with self._news:
                    self.events.append(Event(found["unit"], body))
                    self._news.notify_all()

    def wait_for(self, found: Callable[[Event], bool], seconds: float, *, since: int = 0) -> Event | None:
        """Return the first event from number `since` on that is looked for; None if none comes in time."""
        deadline = time.monotonic() + seconds
        at = since
        with self._news:
            while True:
                for event in self.events[at:]:
                    if found(event):
                        return event
                at = len(self.events)
                left = deadline - time.monotonic()
                if left <= 0:
                    return None
                self._check()
                self._news.wait(min(left, 1))

    # Channel

    def ask(self, do: str, *, seconds: float = STEP_SECONDS, **fields: Any) -> dict[str, Any]:
        """Have the channel do something, and return what it answers.

        Raises:
            TimeoutError: no answer has come.
            GuestDied: and none will.
        """
        with self._asking:
            self._asked += 1
            number, replies = self._asked, queue.Queue[dict[str, Any]](1)
            self._replies[number] = replies
            self._channel.sendall(json.dumps({"id": number, "do": do, **fields}).encode() + b"\n")
        deadline = time.monotonic() + seconds
        while True:
            try:
                reply = replies.get(timeout=min(1, max(0.0, deadline - time.monotonic())))
                break
            except queue.Empty:
                self._check()
                if time.monotonic() >= deadline:
                    raise TimeoutError(f"no answer to {do} {fields} in {seconds} s") from None
        assert "failed" not in reply, f"{do} {fields}: {reply['failed']}"
        return reply

    def run(self, *command: str, typed: str = "", seconds: float = STEP_SECONDS, codes: Sequence[int] | None = (0,)) -> Done:
        """Run a command inside; with `codes` it has to end with one of them."""
        reply = self.ask("run", command=command, typed=typed, limit=seconds, seconds=seconds + 30)
        done = Done(reply["code"], reply["out"], reply["err"])
        assert codes is None or done.code in codes, f"{' '.join(command)}: exit {done.code}\n{done.out}\n{done.err}"
        return done

    def _hear(self, channel: socket.socket) -> None:
        kept = b""
        while True:
            try:
                data = channel.recv(1 << 20)
            except OSError:
                return
            if not data:
                return
            *lines, kept = (kept + data).split(b"\n")
            for line in lines:
                reply = json.loads(line)
                if (waiting := self._replies.pop(reply.pop("id"), None)) is not None:
                    waiting.put(reply)

    def _until(self, what: str, probe: Callable[[], Any], seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not probe():
            self._check()
            if time.monotonic() >= deadline:
                raise GuestDied(f"waited {seconds} s in vain for {what}")
            time.sleep(0.05)
