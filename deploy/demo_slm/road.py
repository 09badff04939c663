"""A road that breaks: every so many seconds each connection over it is cut, in the middle of whatever it carries."""

import threading
import time

from deploy.demo.link import SlowLink

DOWN_SECONDS = 1.0  # for so long nobody gets through


class DroppingRoad(SlowLink):
    """A slow road with breaks; `drops` counts those that cut something."""

    def __init__(self, broker_port: int, *, bytes_per_second: int, drop_seconds: float) -> None:
        super().__init__(broker_port, bytes_per_second=bytes_per_second)
        self._drop_seconds, self._ended = drop_seconds, threading.Event()
        self.drops = 0
        threading.Thread(target=self._break, daemon=True).start()

    def close(self) -> None:
        """Carry nothing more."""
        self._ended.set()
        super().close()
        self.cut()

    def _break(self) -> None:
        while not self._ended.wait(self._drop_seconds):
            self.open = False
            self.drops += self.cut()
            time.sleep(DOWN_SECONDS)
            self.open = True
