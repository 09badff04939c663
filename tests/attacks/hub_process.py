"""A hub in a process of its own: `python -m tests.attacks.hub_process FOLDER KIND URL [CA CERTIFICATE KEY]`. It runs until SIGTERM.

Its keys are made here and stay here. The manifest of its release is written to `FOLDER/manifest`.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

from fleetcast.mqtt_connection import TlsFiles
from node.cli.long_running import log_to_stderr, until_stopped
from schemas import codec
from tests.hub.hubs import Fleet

VERSION = "1.0.0"


@dataclass(frozen=True)
class Elsewhere:
    """A broker that another process runs."""

    kind: Literal["mosquitto", "embedded"]
    address: str
    files: TlsFiles | None

    def url(self, user: str = "hub") -> str:
        return self.address

    def tls(self, user: str = "hub") -> TlsFiles | None:
        return self.files


def main() -> None:
    folder, kind, url, *files = sys.argv[1:]
    log_to_stderr()
    broker = Elsewhere(cast(Literal["mosquitto", "embedded"], kind), url, TlsFiles(*files) if files else None)
    fleet = Fleet(Path(folder))
    manifest = fleet.publish(VERSION)
    stop = until_stopped()
    with fleet.hub(cast("object", broker), window_age_days_max=30):  # type: ignore[arg-type]  # all that a hub asks of it
        (Path(folder) / "manifest").write_bytes(codec.encode(manifest))
        stop.wait()


if __name__ == "__main__":
    main()
