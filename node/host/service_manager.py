"""Tell the service manager how the agent is: systemd's notification protocol (sd_notify(3)), one datagram a message. Knows no agent."""

import contextlib
import os
import socket
from collections.abc import Mapping
from typing import Final

from node.core.trust.clock import NEVER, MonotonicSeconds

FEEDINGS: Final = 4  # Feedings of the watchdog in its time: one that is late is no alarm.
WAIT_SECONDS: Final = 2.0  # A message that is sent once waits for a manager that is behind; one that is sent again is dropped then.


class Notify:
    """Write to the service manager's socket, if there is one; without, every message goes nowhere."""

    def __init__(self, environment: Mapping[str, str] = os.environ, *, pid: int | None = None) -> None:
        address = environment.get("NOTIFY_SOCKET", "")
        # A leading @ stands for the zero byte of Linux's abstract names; vsock addresses are for machines that boot.
        self._address = f"\0{address[1:]}" if address.startswith("@") else address if address.startswith("/") else ""
        asked = environment.get("WATCHDOG_USEC", "")
        meant = environment.get("WATCHDOG_PID") or str(pid or os.getpid())
        fed = bool(self._address) and asked.isdecimal() and int(asked) > 0 and meant == str(pid or os.getpid())
        self.watchdog_seconds: Final = int(asked) / 1e6 if fed else None  # without a word for this long, the manager kills us
        self.is_watched: Final = bool(self._address)
        self._fed_at = NEVER

    def ready(self) -> None:
        """Report that the start is over."""
        self._send("READY=1", wait_seconds=WAIT_SECONDS)

    def status(self, sentence: str) -> None:
        """Set what `systemctl status` shows."""
        self._send(f"STATUS={' '.join(sentence.split())}")

    def watchdog(self) -> None:
        """Report that the agent is still well."""
        self._send("WATCHDOG=1")

    def turned(self, now: MonotonicSeconds) -> None:
        """Feed the watchdog after a turn of a loop: a few times in its time, where nothing else has to be asked first."""
        if self.watchdog_seconds is not None and now - self._fed_at >= self.watchdog_seconds / FEEDINGS:
            self._fed_at = now
            self.watchdog()

    def stopping(self) -> None:
        """Report that the end has begun."""
        self._send("STOPPING=1", wait_seconds=WAIT_SECONDS)

    def _send(self, text: str, *, wait_seconds: float = 0.0) -> None:
        if not self._address:
            return
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            sock.settimeout(wait_seconds)  # a manager that does not listen must not hold us up
            sock.sendto(text.encode(), self._address)
