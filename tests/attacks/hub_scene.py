"""A real hub beside a broker, an honest node, and enrolled nodes that mean harm."""

import itertools
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

from fleetcast.mqtt_connection import Disconnected, Message
from schemas import codec
from schemas.manifest import Manifest
from schemas.topics import Topics
from tests.attacks.processes import Process, until
from tests.broker.client import Client
from tests.brokers import FLEET, Broker
from tests.hub.hubs import Device, Fleet

QUIET_SECONDS = 0.5


class _OnlyTopics:
    """All that a `Device` asks of its fleet."""

    topics = Topics(FLEET)


class HubScene:
    """What every attack finds: a hub that hears an honest node, and serves its blocks."""

    def __init__(self, broker: Broker, folder: Path) -> None:
        self.broker, self.folder, self.topics = broker, folder, Topics(FLEET)
        self._numbers = itertools.count(1)
        self._open: list[Client] = []
        tls = broker.tls("hub")
        files = [tls.ca, tls.certificate, tls.key] if tls else []
        command = [sys.executable, "-m", "tests.attacks.hub_process", str(folder / "hub"), broker.kind, broker.url("hub"), *files]
        self.hub = Process(command, folder / "hub.log")
        written = folder / "hub" / "manifest"
        until("the hub", lambda: written.exists() or not self.hub.lives)
        assert self.hub.lives, self.hub.log.read_text()
        time.sleep(0.1)
        self.manifest = codec.decode(Manifest, written.read_bytes())
        self.honest = self.device("honest")

    def client(self, user: str, *, client_id: str | None = None) -> Client:
        made = Client.of(self.broker, user, client_id=client_id)
        self._open.append(made)
        return made

    def device(self, name: str, **changes: Any) -> Device:
        """A node that is connected, and whose state the hub has."""
        made = Device(name, self.client(name), cast(Fleet, _OnlyTopics()))
        made.client.open()
        made.say_state(cohort=name, **changes)
        made.fetch(self.manifest, count=1, again=True)  # The hub reads a node's messages of one kind in order, and states first.
        return made

    def attacker(self) -> Device:
        """A node that nobody has heard of, in a cohort of its own: what the hub refuses of it, it reports at once."""
        return self.device(f"a{next(self._numbers)}")

    def serves(self) -> bool:
        """Whether the honest node gets its blocks, for which it asks again as nodes do: what it said while the hub was away may be lost."""
        client, wanted = self.honest.client, {self.topics.block(block.digest) for block in self.manifest.variants[0].files[0].blocks}
        client.messages(seconds=0.01)
        client.subscribe(*sorted(wanted))
        deadline = time.monotonic() + 100
        while wanted and time.monotonic() < deadline:
            self.honest.want(self.manifest, again=True)
            with suppress(AssertionError):
                while wanted:
                    message = client.next(Message, seconds=5)
                    client.link.ack(message)
                    wanted.discard(message.topic)
        return not wanted

    def codes(self, since: int) -> list[str]:
        """What the hub has refused or raised since; the alert about a refusal says it once more."""
        found = [line for line in self.hub.lines(since) if line["event"] in {"message.refused", "alert.raised"} and line.get("code")]
        return [str(line["code"]) for line in found if not str(line.get("text", "")).startswith("the hub refused a message")]

    def withheld(self, topic: str, payload: bytes) -> list[str]:
        """Where the broker has an access list: publish as a node, and look whether another node gets it. What it withholds is `acl`."""
        listener, writer = self.client("a-reader"), self.client(f"w{next(self._numbers)}")
        for one in (listener, writer):
            one.open()
        listener.subscribe(topic)
        writer.link.publish(topic, payload, retain=True)
        heard = listener.messages(seconds=QUIET_SECONDS)
        listener.link.close()
        assert all(message.payload != payload for message in heard), "the broker passed it on"
        return ["acl"]

    def is_connected(self, client: Client) -> bool:
        return not any(isinstance(event, Disconnected) for event in [*client.heard, *client.inbox.queue])

    def stop(self) -> None:
        for client in self._open:
            client.link.close()
        self.hub.stop()
