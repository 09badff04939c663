"""Emulate a link that breaks: at a fixed interval each connection over it is cut, in the middle of its data."""

import threading
import time

from deploy.demo.link import SlowLink

DOWN_SECONDS = 1.0  # Time without any connection.


class DroppingRoad(SlowLink):
    """Run a slow link with breaks; `drops` counts those that cut a connection."""

    def __init__(self, broker_port: int, *, bytes_per_second: int, drop_seconds: float) -> None:
        super().__init__(broker_port, bytes_per_second=bytes_per_second)
        self._drop_seconds, self._ended = drop_seconds, threading.Event()
        self.drops = 0
        threading.Thread(target=self._break, daemon=True).start()

    def close(self) -> None:
        """Close the link."""
        self._ended.set()
        super().close()
        self.cut()

    def _break(self) -> None:
        while not self._ended.wait(self._drop_seconds):
            self.open = False
            self.drops += self.cut()
            time.sleep(DOWN_SECONDS)
            self.open = True
