"""Ask brokers what they do for us: `make test-brokers`, that is `python -m tests.broker.asked [--write] [BROKER...]`.

Each question is a small scene between clients and one running broker, and its answer is what arrived: not what the broker announces, nor
what its documentation says. `--write` puts the answers into `bench/results.json`, from which docs/brokers.md has its table.
"""

import argparse
import queue
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count, cycle
from pathlib import Path
from typing import Any

from paho.mqtt.client import Client as Paho
from paho.mqtt.client import MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from bench.figures import Figure, write
from tests.broker import served

QUIET_SECONDS = 0.7  # Nothing more is expected after it.
ANSWER_SECONDS = 15.0
COMMAND = "make test-brokers"
_names = count(1)


@dataclass
class Asker:
    """One client: what it heard, and the acknowledgements that it holds back."""

    port: int
    name: str
    received: "queue.Queue[MQTTMessage]" = field(default_factory=queue.Queue)
    answers: "queue.Queue[tuple[str, Any]]" = field(default_factory=queue.Queue)
    holds_back: bool = False
    paho: Paho = field(init=False)

    def __post_init__(self) -> None:
        self.paho = Paho(CallbackAPIVersion.VERSION2, client_id=self.name, protocol=MQTTProtocolVersion.MQTTv5, manual_ack=True)
        self.paho._reconnect_on_failure = False
        self.paho.max_inflight_messages_set(1000)
        self.paho.on_connect = lambda _c, _u, flags, reason, _p: self.answers.put(("connected", (reason, flags.session_present)))
        self.paho.on_subscribe = lambda _c, _u, _mid, reasons, _p: self.answers.put(("subscribed", reasons))
        self.paho.on_publish = lambda _c, _u, mid, _r, _p: self.answers.put(("published", mid))
        self.paho.on_disconnect = lambda _c, _u, _f, reason, _p: self.answers.put(("disconnected", reason))
        self.paho.on_message = self._took

    def _took(self, _client: Paho, _user: Any, message: MQTTMessage) -> None:
        self.received.put(message)
        if not self.holds_back:
            self.ack(message)

    def ack(self, message: MQTTMessage) -> None:
        self.paho.ack(message.mid, message.qos)

    def wait(self, kind: str, seconds: float = ANSWER_SECONDS) -> Any:
        """The next answer of this kind; others before it are dropped."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                found, value = self.answers.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                raise TimeoutError(f"no {kind!r} from the broker") from None
            if found == kind:
                return value

    def open(self, *, session_seconds: int = 0, receive_max: int = 200, will: "tuple[str, int] | None" = None) -> bool:
        """Connect, and return whether the broker had a session for us."""
        properties = Properties(PacketTypes.CONNECT)
        properties.SessionExpiryInterval, properties.ReceiveMaximum = session_seconds, receive_max
        if will is not None:
            told = Properties(PacketTypes.WILLMESSAGE)
            told.WillDelayInterval = will[1]
            self.paho.will_set(will[0], b"lost", qos=1, properties=told)
        self.paho.connect("127.0.0.1", self.port, keepalive=60, clean_start=session_seconds == 0, properties=properties)
        self.paho.loop_start()
        reason, present = self.wait("connected")
        if reason.is_failure:
            raise ConnectionError(str(reason))
        return bool(present)

    def subscribe(self, *filters: str, identifier: int | None = None, **options: Any) -> list[ReasonCode]:
        properties = Properties(PacketTypes.SUBSCRIBE)
        if identifier is not None:
            properties.SubscriptionIdentifier = identifier
        self.paho.subscribe([(one, SubscribeOptions(qos=1, **options)) for one in filters], properties=properties)
        return list(self.wait("subscribed"))

    def publish(self, topic: str, payload: bytes = b"x", *, retain: bool = False, expiry: int | None = None, **more: Any) -> None:
        """Publish, and wait for the acknowledgement."""
        properties = Properties(PacketTypes.PUBLISH)
        if expiry is not None:
            properties.MessageExpiryInterval = expiry
        for name, value in more.items():
            setattr(properties, name, value)
        self.paho.publish(topic, payload, qos=1, retain=retain, properties=properties)
        self.wait("published")

    def publish_all(self, topics: list[str], *, retain: bool = False) -> None:
        """Publish many at once, each with its number, and wait for all acknowledgements."""
        for number, topic in enumerate(topics):
            self.paho.publish(topic, str(number).encode(), qos=1, retain=retain)
        for _ in topics:
            self.wait("published")

    def messages(self, least: int = 0) -> list[MQTTMessage]:
        """What came until nothing came for a while; the first `least` are waited for longer."""
        found: list[MQTTMessage] = []
        while True:
            try:
                found.append(self.received.get(timeout=ANSWER_SECONDS if len(found) < least else QUIET_SECONDS))
            except queue.Empty:
                return found

    def vanish(self) -> None:
        """Be gone without a goodbye."""
        sock = self.paho.socket()
        if sock is not None:
            sock.shutdown(2)
        self.close()

    def leave(self) -> None:
        """Say goodbye; the session stays where it has time."""
        self.paho.disconnect()
        self.close()

    def close(self) -> None:
        self.paho.loop_stop()


class Scene:
    """A place for one question: clients, each of the next broker where there are several, and topics that no other question uses."""

    def __init__(self, ports: Sequence[int]) -> None:
        self._ports, self.number = cycle(ports), next(_names)
        self.clients: list[Asker] = []

    def client(self, name: str = "", **options: Any) -> Asker:
        """A connected client."""
        found = self.prepared(name)
        found.open(**options)
        return found

    def prepared(self, name: str = "") -> Asker:
        found = Asker(next(self._ports), f"c{self.number}-{name or next(_names)}")
        self.clients.append(found)
        return found

    def topic(self, name: str = "t") -> str:
        return f"fleetcast/v1/main/asked-{self.number}/{name}"


Answer = tuple[float, str]  # 1: as MQTT 5 has it, and as we need it. 0: not. Between: a part.
Question = Callable[[Scene], Answer]
QUESTIONS: dict[str, tuple[str, Question]] = {}


def question(name: str, what: str) -> Callable[[Question], Question]:
    """Add a question to the table."""

    def add(ask: Question) -> Question:
        QUESTIONS[name] = (what, ask)
        return ask

    return add


def yes(is_so: bool, otherwise: str = "no") -> Answer:
    return (1.0, "yes") if is_so else (0.0, otherwise)


def part(found: int, of: int) -> Answer:
    return (found / of, "yes" if found == of else f"{found} of {of}")


@question("retained", "a retained message reaches a later subscriber of its exact topic")
def _retained(scene: Scene) -> Answer:
    scene.client().publish(scene.topic(), b"kept", retain=True)
    late = scene.client()
    late.subscribe(scene.topic())
    return yes([(one.payload, one.retain) for one in late.messages(1)] == [(b"kept", True)])


@question("retained_wildcard", "400 retained messages reach a later subscriber of a wildcard")
def _retained_wildcard(scene: Scene) -> Answer:
    scene.client().publish_all([scene.topic(str(number)) for number in range(400)], retain=True)
    late = scene.client()
    late.subscribe(scene.topic("+"))
    return part(len({one.topic for one in late.messages(1)}), 400)


@question("retained_cleared", "an empty message clears what is retained")
def _retained_cleared(scene: Scene) -> Answer:
    first = scene.client()
    first.publish(scene.topic(), b"kept", retain=True)
    first.publish(scene.topic(), b"", retain=True)
    late = scene.client()
    late.subscribe(scene.topic())
    return yes(late.messages() == [])


@question("retained_expires", "a retained message is gone after its expiry")
def _retained_expires(scene: Scene) -> Answer:
    scene.client().publish(scene.topic(), b"kept", retain=True, expiry=1)
    time.sleep(2.5)
    late = scene.client()
    late.subscribe(scene.topic())
    return yes(late.messages() == [])


@question("retain_as_published", "retain-as-published: a bridge sees which message is to be retained")
def _retain_as_published(scene: Scene) -> Answer:
    listening = scene.client()
    listening.subscribe(scene.topic(), retainAsPublished=True)
    scene.client().publish(scene.topic(), b"kept", retain=True)
    return yes([one.retain for one in listening.messages(1)] == [True])


@question("retain_handling", "a subscription that is known already is not sent again what is retained (retain handling 1)")
def _retain_handling(scene: Scene) -> Answer:
    scene.client().publish(scene.topic(), b"kept", retain=True)
    listening = scene.client()
    listening.subscribe(scene.topic(), retainHandling=SubscribeOptions.RETAIN_SEND_IF_NEW_SUB)
    first = len(listening.messages(1))
    listening.subscribe(scene.topic(), retainHandling=SubscribeOptions.RETAIN_SEND_IF_NEW_SUB)
    second = len(listening.messages())
    return yes((first, second) == (1, 0), "sent again" if second else "not sent at all")


@question("no_local", "no-local: a client does not hear itself")
def _no_local(scene: Scene) -> Answer:
    client = scene.client()
    client.subscribe(scene.topic(), noLocal=True)
    client.publish(scene.topic())
    return yes(client.messages() == [])


@question("many_filters", "64 filters in one SUBSCRIBE, each served")
def _many_filters(scene: Scene) -> Answer:
    client = scene.client()
    topics = [scene.topic(str(number)) for number in range(64)]
    client.subscribe(*topics)
    scene.client().publish_all(topics)
    return part(len({one.topic for one in client.messages(1)}), 64)


@question("resubscribed", "50 subscriptions that are ended and begun again at once go on")
def _resubscribed(scene: Scene) -> Answer:
    client = scene.client()
    topics = [scene.topic(str(number)) for number in range(50)]
    client.subscribe(*topics)
    for topic in topics:
        client.paho.unsubscribe(topic)
        client.paho.subscribe(topic, qos=1)
    for _ in topics:
        client.wait("subscribed")
    time.sleep(QUIET_SECONDS)
    scene.client().publish_all(topics)
    return part(len({one.topic for one in client.messages(1)}), 50)


@question("shared", "a shared subscription gives each of 200 messages to one of two members")
def _shared(scene: Scene) -> Answer:
    members = [scene.client(), scene.client()]
    for member in members:
        if any(code.is_failure for code in member.subscribe(f"$share/asked/{scene.topic('+')}")):
            return (0.0, "refused")
    scene.client().publish_all([scene.topic(str(number)) for number in range(200)])
    found = [[one.topic for one in member.messages()] for member in members]
    together = [*found[0], *found[1]]
    if len(together) != len(set(together)):
        return (0.0, f"{len(together)} copies of 200")
    if not all(found):
        return (0.0, "all to one member" if together else "none arrive")
    return part(len(together), 200)


@question("shared_kill", "a member that is gone leaves its share to the other")
def _shared_kill(scene: Scene) -> Answer:
    staying, going = scene.client(), scene.client()
    for member in (staying, going):
        member.subscribe(f"$share/asked/{scene.topic('+')}")
    going.vanish()
    time.sleep(0.5)
    scene.client().publish_all([scene.topic(str(number)) for number in range(100)])
    return part(len({one.topic for one in staying.messages(1)}), 100)


@question("session", "a session keeps subscriptions and messages while its client is away")
def _session(scene: Scene) -> Answer:
    client = scene.client("away", session_seconds=60)
    client.subscribe(scene.topic())
    client.leave()
    scene.client().publish(scene.topic(), b"meanwhile")
    back = scene.prepared("away")
    if not back.open(session_seconds=60):
        return (0.0, "the session is gone")
    return yes([one.payload for one in back.messages(1)] == [b"meanwhile"], "the message is lost")


@question("session_queue", "2,000 messages of 200 bytes wait for a client that is away")
def _session_queue(scene: Scene) -> Answer:
    client = scene.client("away", session_seconds=60)
    client.subscribe(scene.topic("+"))
    client.leave()
    scene.client().publish_all([scene.topic(str(number)) for number in range(2000)])
    back = scene.prepared("away")
    back.open(session_seconds=60)
    return part(len({one.topic for one in back.messages(1)}), 2000)


@question("session_expires", "a session ends when its expiry is over")
def _session_expires(scene: Scene) -> Answer:
    client = scene.client("away", session_seconds=1)
    client.subscribe(scene.topic())
    client.leave()
    time.sleep(3.0)
    return yes(not scene.prepared("away").open(session_seconds=1), "it is kept")


@question("queued_expires", "a message that waits for a client that is away is gone after its expiry")
def _queued_expires(scene: Scene) -> Answer:
    client = scene.client("away", session_seconds=60)
    client.subscribe(scene.topic())
    client.leave()
    scene.client().publish(scene.topic(), expiry=1)
    time.sleep(2.5)
    back = scene.prepared("away")
    back.open(session_seconds=60)
    return yes(back.messages() == [], "delivered late")


@question("redelivered", "what was not acknowledged comes again at the next connection")
def _redelivered(scene: Scene) -> Answer:
    client = scene.prepared("away")
    client.holds_back = True
    client.open(session_seconds=60)
    client.subscribe(scene.topic())
    scene.client().publish(scene.topic(), b"once")
    client.messages(1)
    client.vanish()
    back = scene.prepared("away")
    back.open(session_seconds=60)
    return yes([one.payload for one in back.messages(1)] == [b"once"])


@question("receive_maximum", "at most Receive Maximum messages are under way to a client that acknowledges none")
def _receive_maximum(scene: Scene) -> Answer:
    client = scene.prepared()
    client.holds_back = True
    client.open(receive_max=5)
    client.subscribe(scene.topic("+"))
    scene.client().publish_all([scene.topic(str(number)) for number in range(50)])
    found = len(client.messages(1))
    return yes(found == 5, f"{found} at once")


@question("receive_maximum_step", "one acknowledgement brings one more message, not a new batch")
def _receive_maximum_step(scene: Scene) -> Answer:
    client = scene.prepared()
    client.holds_back = True
    client.open(receive_max=5)
    client.subscribe(scene.topic("+"))
    scene.client().publish_all([scene.topic(str(number)) for number in range(50)])
    first = client.messages(1)
    if len(first) != 5:
        return (0.0, f"{len(first)} at once")
    client.ack(first[0])
    found = len(client.messages())
    return yes(found == 1, f"{found} more")


@question("ordering", "1,000 messages of one sender arrive in order")
def _ordering(scene: Scene) -> Answer:
    client = scene.client()
    client.subscribe(scene.topic())
    scene.client().publish_all([scene.topic()] * 1000)
    found = [int(one.payload) for one in client.messages(1)]
    return yes(found == list(range(1000)), "no" if found != sorted(found) else f"{len(found)} of 1000")


@question("will", "a Will is published when its client is gone without a goodbye")
def _will(scene: Scene) -> Answer:
    listening = scene.client()
    listening.subscribe(scene.topic())
    scene.client(will=(scene.topic(), 0)).vanish()
    return yes(len(listening.messages(1)) == 1)


@question("will_delay", "a delayed Will stays away when its client is back in time, and comes when it is not")
def _will_delay(scene: Scene) -> Answer:
    listening = scene.client()
    listening.subscribe(scene.topic())
    scene.client("back", session_seconds=60, will=(scene.topic(), 2)).vanish()
    back = scene.prepared("back")
    back.open(session_seconds=60, will=(scene.topic(), 2))
    time.sleep(2.5)
    if listening.messages():
        return (0.0, "sent at once")
    back.vanish()
    began = time.monotonic()
    came = listening.messages(1)
    return yes(len(came) == 1 and time.monotonic() - began > 1.5, "sent at once" if came else "never sent")


@question("packet", "a message of 1.5 MiB passes")
def _packet(scene: Scene) -> Answer:
    client = scene.client()
    client.subscribe(scene.topic())
    payload = bytes(3 << 19)
    scene.client().publish(scene.topic(), payload)
    return yes([len(one.payload) for one in client.messages(1)] == [len(payload)])


@question("properties", "content type and user properties pass")
def _properties(scene: Scene) -> Answer:
    client = scene.client()
    client.subscribe(scene.topic())
    scene.client().publish(scene.topic(), ContentType="application/x", UserProperty=[("a", "b")])
    (message,) = client.messages(1)
    told = message.properties
    return yes((getattr(told, "ContentType", ""), getattr(told, "UserProperty", [])) == ("application/x", [("a", "b")]))


@question("identifiers", "subscription identifiers come with messages (we use none)")
def _identifiers(scene: Scene) -> Answer:
    client = scene.client()
    client.subscribe(scene.topic(), identifier=7)
    scene.client().publish(scene.topic())
    (message,) = client.messages(1)
    return yes(getattr(message.properties, "SubscriptionIdentifier", []) == [7])


@question("takeover", "a second client of the same name ends the first, and the broker says why")
def _takeover(scene: Scene) -> Answer:
    first = scene.client("same")
    scene.client("same")
    reason = first.wait("disconnected")
    return yes(reason.value == 0x8E, f"ended without the reason ({reason})")


def ask(name: str, ports: Sequence[int]) -> Answer:
    """One question; a broker that does not play along has answered."""
    scene = Scene(ports)
    try:
        return QUESTIONS[name][1](scene)
    except (TimeoutError, OSError, ValueError) as error:
        return (0.0, f"no: {error}"[:60])
    finally:
        for client in scene.clients:
            client.leave()


@contextmanager
def asked(kind: str) -> Iterator[served.Served]:
    with tempfile.TemporaryDirectory() as folder:
        broker = served.KINDS[kind](Path(folder))
        broker.start()
        try:
            yield broker
        finally:
            broker.stop()


def main(arguments: list[str]) -> int:
    """Ask those brokers, or all that are installed."""
    parser = argparse.ArgumentParser(prog="python -m tests.broker.asked")
    parser.add_argument("brokers", nargs="*", choices=[*served.KINDS, []])
    parser.add_argument("--write", action="store_true")
    chosen = parser.parse_args(arguments)
    figures: list[Figure] = []
    asked_of = 0
    for kind in chosen.brokers or served.KINDS:
        try:
            with asked(kind) as broker:
                asked_of += 1
                for name, (what, _) in QUESTIONS.items():
                    value, answer = ask(name, broker.ports)
                    print(f"{kind:12} {name:22} {answer}", flush=True)
                    figures.append(Figure(f"brokers.{kind}.{name}", value, f"{answer} | {what}", "", broker.version, None, COMMAND))
        except served.Absent as error:
            print(f"{kind:12} not asked: {error}", flush=True)
    short = sum(figure.value < 1 for figure in figures)
    print(f"{asked_of} brokers, {len(QUESTIONS)} questions each: {len(figures) - short} answered as MQTT 5 has it, {short} not")
    if chosen.write:
        write(figures)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
