"""A plant whose hub runs with its console, and whose devices sign receipts by hand: what browsers and benches look at."""

import contextlib
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hub.core.rollouts import commands
from hub.core.rollouts.stages import parse_stages
from hub.operations import api_tokens, console_sessions, rollouts
from hub.operations.opened_fleet import OpenedFleet
from hub.operations.queueing import queue
from hub.settings import HubSettings
from hub.web.server import Server
from schemas import codec
from schemas.manifest import Manifest
from schemas.names import sha256
from schemas.state import Profile, Slot
from tests import brokers
from tests.hub.hubs import Device, Fleet, until

SITES = ("ewr", "jfk", "lga")


@dataclass
class Plant:
    """A fleet, its hub, its devices, and the address of its console."""

    fleet: Fleet
    opened: OpenedFleet
    url: str
    devices: Sequence[Device]
    releases: dict[str, Manifest] = field(default_factory=dict)

    def publish(self, version: str, seed: int) -> Manifest:
        self.releases[version] = self.fleet.publish(version, seed)
        return self.releases[version]

    def start(self, version: str, stages: str, **more: Any) -> None:
        asked = [one if isinstance(one, int) else one.model_dump(mode="json") for one in parse_stages(stages)]
        wish = commands.read_as(commands.Start, json.dumps({"version": version, "stages": asked, **more}))
        prepared = rollouts.start(self.opened, "delay", wish)
        number = queue(self.opened, prepared.model, prepared.command)
        until("the hub to begin", lambda: self.opened.store.command(number).state != "open")
        assert self.opened.store.command(number).state == "done", self.opened.store.command(number).text

    def serve(self, devices: Sequence[Device], version: str) -> None:
        manifest = self.releases[version]
        for device in devices:
            device.sign("serving", manifest, since=int(time.time()))

    def say(self, device: Device, at: int, **slot: Any) -> None:
        """Have a device report, with a slot of the model."""
        slots = (Slot.model_validate({"model": "delay", "state": "serving", **slot}),) if slot else ()
        profile = Profile(arch="aarch64", cores=2, memory_bytes=512_000_000, labels={"site": SITES[at % len(SITES)]})
        device.say_state(profile=profile, slots=slots, link=("free", "metered", "metered", "roaming")[at % 4])

    def digest(self, version: str) -> bytes:
        return sha256(codec.encode(self.releases[version]))

    def link(self, role: api_tokens.Role = "admin", name: str = "shift-2") -> str:
        """An address that signs in once."""
        return f"{self.url}/login?once={console_sessions.make_link(self.opened, name=name, role=role)}"

    def facts(self) -> dict[str, int]:
        row = next(iter(self.opened.store.rollout_rows()), None)
        return {} if row is None else {"serving": row.serving, "failed": row.failed, "heard": row.heard}


@contextlib.contextmanager
def plant(folder: Path, *, nodes: int = 12, **settings: Any) -> Iterator[Plant]:
    """A plant of some nodes, of which nothing was rolled out yet."""
    with brokers.running("embedded", folder / "broker") as broker:
        fleet = Fleet(folder / "fleet")
        with fleet.hub(broker, **settings) as _:
            opened = OpenedFleet(fleet.directory, HubSettings(fleet="plant", web_listen="127.0.0.1:0"), fleet.store, fleet.repository)
            server = Server(opened)
            url = server.start()
            devices = [Device.connect(f"{SITES[at % len(SITES)]}-{at // len(SITES) + 1:02}", broker, fleet) for at in range(nodes)]
            found = Plant(fleet, opened, str(url), devices)
            for at, device in enumerate(devices):
                found.say(device, at)
            until("all nodes to be heard", lambda: len(opened.store.counted_nodes()) == nodes)
            try:
                yield found
            finally:
                for device in devices:
                    device.client.link.close()
                server.stop()
