"""What enrolled nodes, and strangers where nobody keeps them out, try with a hub and with each other."""

import os
import time
from typing import Any

import msgpack

from fleetcast.mqtt_connection import Connected, Disconnected, Message, Will
from hub.signing.envelopes import seal
from schemas import codec
from schemas.block_request import Range, Want
from schemas.bundle import TrustTime
from schemas.errors import Code
from schemas.names import sha256
from schemas.state import State
from schemas.window import Window, expected_counts, pack_counts
from tests.attacks.catalogue import attack
from tests.attacks.hub_scene import HubScene
from tests.attacks.processes import until
from tests.hub.flooding import flood_of_states
from tests.hub.hubs import WINDOW_SECONDS, Device
from tests.trust_fleet import Fleet, statement

TELEMETRY = {"rho_spent": 0.0, "rho_day_max": 0.7}


def recent() -> int:
    return int(time.time()) // WINDOW_SECONDS * WINDOW_SECONDS - 2 * WINDOW_SECONDS


def forged_trust(scene: HubScene) -> Fleet:
    """A fleet with keys of the attacker's own."""
    folder = scene.folder / "forged"
    if not hasattr(scene, "forged"):
        scene.forged = Fleet.make(folder)  # type: ignore[attr-defined]
        scene.forged.release("1.0.0")  # type: ignore[attr-defined]
        scene.forged.refresh()  # type: ignore[attr-defined]
    return scene.forged  # type: ignore[attr-defined,no-any-return]


def on_the_hubs_topic(scene: HubScene, topic: str, payload: bytes) -> list[str] | None:
    """Write where only the hub may: mosquitto's access list passes nothing on, and elsewhere the hub looks at its own topics."""
    if scene.broker.kind == "mosquitto":
        return scene.withheld(topic, payload)
    scene.attacker().client.link.publish(topic, payload, retain=True)
    return None


# Names


@attack("fleet", Code.RECEIPT_KEY_CHANGED, "acl")
def state_in_another_nodes_name(scene: HubScene) -> Any:
    """A state of the honest node, with the attacker's key, from the attacker's connection."""
    thief = scene.attacker()
    honest = scene.honest
    forged = Device("honest", thief.client, honest.fleet, session=honest.session + 50)
    if scene.broker.kind == "mosquitto":
        forged.say_state(cohort="honest")
        since = scene.hub.log_bytes
        thief.want(scene.manifest, again=True)
        scene.serves()
        assert not [code for code in scene.codes(since) if code == str(Code.RECEIPT_KEY_CHANGED)]
        return ["acl"]
    forged.say_state(cohort="honest")
    return None


@attack("fleet", Code.SCHEMA_MALFORMED)
def state_of_another_node_on_its_own_topic(scene: HubScene) -> None:
    """A state that names the honest node, on the attacker's topic."""
    thief = scene.attacker()
    state = State(node="honest", session=99, status="online", at=int(time.time()))
    thief.client.link.publish(scene.topics.state(thief.name), codec.encode(state), retain=True)


@attack("fleet", Code.RECEIPT_KEY_CHANGED)
def another_key_for_a_known_node(scene: HubScene) -> None:
    """A node's own connection with another device's key."""
    thief = scene.attacker()
    Device(thief.name, thief.client, thief.fleet, session=thief.session).say_state(cohort=thief.name)


@attack("fleet", Code.RECEIPT_SIGNATURE)
def receipt_with_a_forged_signature(scene: HubScene) -> None:
    """A receipt of success that another key signed."""
    thief = scene.attacker()
    Device(thief.name, thief.client, thief.fleet).sign("serving", scene.manifest)


@attack("fleet", Code.RECEIPT_SIGNATURE)
def receipt_of_another_node(scene: HubScene) -> None:
    """A receipt that names the honest node, signed by the attacker, on the attacker's topic."""
    scene.attacker().sign("serving", scene.manifest, node="honest")


@attack("fleet", Code.LEDGER_ROLLED_BACK)
def ledger_put_back(scene: HubScene) -> None:
    """A privacy ledger that has fewer entries than before."""
    thief = scene.attacker()
    for entries in (4096, 32):
        thief.say_state(cohort=thief.name, at=int(time.time()) + 4096 - entries, telemetry={**TELEMETRY, "ledger_entries": entries})


# Documents


@attack("fleet", Code.SCHEMA_MALFORMED)
def junk_for_a_state(scene: HubScene) -> None:
    """Bytes that are no state."""
    thief = scene.attacker()
    thief.client.link.publish(scene.topics.state(thief.name), b"\xc1" * 100)


@attack("fleet", Code.SCHEMA_TOO_LARGE)
def oversize_state(scene: HubScene) -> None:
    """A state of a megabyte."""
    thief = scene.attacker()
    thief.client.link.publish(scene.topics.state(thief.name), bytes(2**20))


@attack("fleet", Code.SCHEMA_MALFORMED)
def deeply_nested_receipt(scene: HubScene) -> None:
    """A receipt of 4,000 levels."""
    thief = scene.attacker()
    thief.client.link.publish(scene.topics.receipt(thief.name), b"\x91" * 4000 + b"\xc0")


@attack("fleet", Code.SCHEMA_MALFORMED)
def four_gigabytes_that_do_not_follow(scene: HubScene) -> None:
    """A want that declares a field of 4 GiB."""
    thief = scene.attacker()
    thief.client.link.publish(scene.topics.want(thief.name), b"\xc6\xff\xff\xff\xff")


@attack("fleet", Code.SCHEMA_MALFORMED)
def want_of_a_field_twice(scene: HubScene) -> None:
    """A want whose release stands twice."""
    thief = scene.attacker()
    digest = sha256(codec.encode(scene.manifest))
    want = codec.encode(Want(release=digest, variant="default", ranges=(Range(0, 1),), encodings=("raw",), again=True))
    doubled = bytes([want[0] + 1]) + want[1:] + msgpack.packb("release") + msgpack.packb(digest)
    thief.client.link.publish(scene.topics.want(thief.name), doubled)


@attack("fleet", Code.RELEASE_UNKNOWN)
def want_of_an_unknown_release(scene: HubScene) -> None:
    """A want of a release that nobody published."""
    thief = scene.attacker()
    want = Want(release=os.urandom(32), variant="default", ranges=(Range(0, 1000),), encodings=("raw",), again=True)
    thief.client.link.publish(scene.topics.want(thief.name), codec.encode(want))


@attack("fleet", Code.INBOX_FLOODED)
def flood_of_states_from_one_node(scene: HubScene) -> None:
    """Thousands of valid states of 15 KB."""
    since = scene.hub.log_bytes
    with flood_of_states(scene.broker, scene.topics, "flooder", rate=3000):
        until("the alert", lambda: str(Code.INBOX_FLOODED) in scene.codes(since))


# Windows that would move a gate


def send_window(scene: HubScene, *, model: str = "delay", cohort: str = "", **changes: Any) -> None:
    assert scene.manifest.baseline is not None
    thief = scene.attacker()
    expected = expected_counts(scene.manifest.baseline, 100)
    packed = pack_counts([round(one) for one in expected], expected)
    release = sha256(codec.encode(scene.manifest))[:8]
    fields = {"id": os.urandom(16), "release": release, "start": recent(), "seconds": WINDOW_SECONDS, "rows": 100, "counts": packed}
    thief.client.link.publish(scene.topics.telemetry(model, cohort or thief.name), codec.encode(Window(**{**fields, **changes})))


@attack("fleet", Code.WINDOW_RELEASE)
def window_of_an_unknown_release(scene: HubScene) -> None:
    """A window of a release that nobody published."""
    send_window(scene, release=os.urandom(8))


@attack("fleet", Code.WINDOW_RELEASE)
def window_of_another_model(scene: HubScene) -> None:
    """A window on the topic of a model whose release it is not."""
    send_window(scene, model="other")


@attack("fleet", Code.WINDOW_SHAPE)
def window_of_another_length(scene: HubScene) -> None:
    """A window of one second, where the release says an hour."""
    send_window(scene, seconds=1)


@attack("fleet", Code.WINDOW_FUTURE)
def window_of_the_future(scene: HubScene) -> None:
    """A window of next year."""
    send_window(scene, start=recent() + 365 * 24 * 3600)


@attack("fleet", Code.WINDOW_PAST)
def window_of_1970(scene: HubScene) -> None:
    """A window of the first day."""
    send_window(scene, start=0)


@attack("fleet", Code.WINDOW_OVERWEIGHT, Code.WINDOW_ABSURD)
def window_that_outweighs_its_cohort(scene: HubScene) -> None:
    """A window of as many rows as its field holds, to promote or to stop a canary."""
    send_window(scene, rows=10**8)


@attack("fleet", Code.WINDOW_ABSURD, Code.WINDOW_SHAPE, Code.SCHEMA_MALFORMED)
def window_whose_counts_are_not_of_its_rows(scene: HubScene) -> None:
    """A window of a few rows, and counts of very many."""
    assert scene.manifest.baseline is not None
    expected = expected_counts(scene.manifest.baseline, 100)
    send_window(scene, counts=pack_counts([10**6] * len(expected), expected))


@attack("fleet", Code.WINDOW_SHAPE, Code.SCHEMA_MALFORMED, Code.WINDOW_ABSURD)
def window_with_counts_cut_off(scene: HubScene) -> None:
    """A window whose packed counts end early."""
    send_window(scene, counts=b"\x01")


@attack("fleet", Code.WINDOW_COHORT)
def invented_cohort(scene: HubScene) -> None:
    """A window of a cohort that no node is in."""
    send_window(scene, cohort="invented")


# The hub's own topics


@attack("fleet", Code.TRUST_SIGNATURE, "acl")
def forged_timestamp_on_the_hubs_topic(scene: HubScene) -> Any:
    """A timestamp of another fleet, for all nodes."""
    stamp = TrustTime(timestamp=forged_trust(scene).repository.trust_roles().timestamp)
    return on_the_hubs_topic(scene, scene.topics.trust_time, codec.encode(stamp))


@attack("fleet", Code.TRUST_SIGNATURE, "acl")
def forged_roles_on_the_hubs_topic(scene: HubScene) -> Any:
    """Roles of another fleet, for all nodes."""
    return on_the_hubs_topic(scene, scene.topics.trust_roles, codec.encode(forged_trust(scene).repository.trust_roles()))


@attack("fleet", Code.TRUST_SIGNATURE, "acl")
def forged_release_on_the_hubs_topic(scene: HubScene) -> Any:
    """A model's release by another team, for all nodes."""
    return on_the_hubs_topic(scene, scene.topics.model("delay"), codec.encode(forged_trust(scene).models("1.0.0")))


@attack("fleet", Code.TRUST_SIGNATURE, "acl")
def forged_statement_on_the_hubs_topic(scene: HubScene) -> Any:
    """A model's deployments by another key, for all nodes."""
    said = seal("deployments", codec.encode(statement("1.0.0", serial=99)), forged_trust(scene).keys["rollouts"])
    return on_the_hubs_topic(scene, scene.topics.deploy("delay"), codec.encode(said))


@attack("fleet", Code.TRUST_MISMATCH, "acl")
def forged_index_on_the_hubs_topic(scene: HubScene) -> Any:
    """An index of deployments that the hub did not write."""
    return on_the_hubs_topic(scene, scene.topics.deployed, b"\xc1" * 50)


@attack("fleet", Code.TRUST_SIGNATURE, "acl")
def forged_bundle_on_the_hubs_topic(scene: HubScene) -> Any:
    """A trust bundle of another fleet, for nodes of the version before."""
    return on_the_hubs_topic(scene, scene.topics.trust, codec.encode(forged_trust(scene).refresh()))


@attack("fleet", Code.HUB_DUPLICATE, "acl")
def second_hub_by_its_client_id(scene: HubScene) -> Any:
    """A connection with the hub's client id, which would end the hub's and take its messages."""
    since = scene.hub.log_bytes
    thief = scene.client("a-thief", client_id="hub")
    thief.open()
    if scene.broker.kind == "mosquitto":  # The certificate's name is the client id, whatever a client says.
        assert scene.serves()
        assert not scene.hub.logged("broker.disconnected", since)
        return ["acl"]
    for _ in range(20):
        if str(Code.HUB_DUPLICATE) in scene.codes(since):
            break
        thief.link.drop()
        thief = scene.client("a-thief", client_id="hub")
        thief.open()
        time.sleep(0.5)
    thief.link.close()
    return None


@attack("access", "acl")
def subscription_to_everything(scene: HubScene) -> Any:
    """A node that subscribes to `#`, to read other nodes' states, receipts and windows."""
    spy = scene.client("a-spy")
    spy.open()
    spy.subscribe("#")
    scene.honest.sign("serving", scene.manifest)
    scene.honest.say_state(cohort="honest")
    heard = {message.topic for message in spy.messages(seconds=1.0)}
    spied = {topic for topic in heard if "/node/" in topic or "/telemetry/" in topic or "/want/" in topic}
    assert not spied, spied
    return ["acl"]


@attack("access", "acl")
def takeover_of_a_nodes_client_id(scene: HubScene) -> Any:
    """A node with another node's client id, which would end that node's connection."""
    thief = scene.client("a-taker", client_id="honest")
    thief.open()
    assert scene.serves()
    assert scene.is_connected(scene.honest.client)
    return ["acl"]


@attack("access", "acl")
def will_in_another_nodes_name(scene: HubScene) -> Any:
    """A Will that would report the honest node as lost."""
    forger = scene.client("a-forger")
    state = State(node="honest", session=scene.honest.session, status="lost", at=int(time.time()))
    forger.link.open(Will(scene.topics.state("honest"), codec.encode(state), delay_seconds=0))
    forger.next((Connected, Disconnected))
    forger.link.drop()
    assert scene.serves()
    time.sleep(0.5)  # Nothing says that a Will is not sent.
    assert not scene.hub.logged("alert.raised", node="honest", kind="node_silent")
    return ["acl"]


@attack("access", "acl")
def name_with_a_slash(scene: HubScene) -> Any:
    """A certificate named `honest/state`, which would own the honest node's topics."""
    stranger = scene.client("honest/state")
    stranger.link.open()
    stranger.link.publish(scene.topics.receipt("honest"), b"forged")
    since = scene.hub.log_bytes
    assert scene.serves()
    assert not scene.codes(since)
    return ["acl"]


@attack("access", "acl")
def settings_in_the_hubs_name(scene: HubScene) -> Any:
    """Settings for the honest node, from another node."""
    topic = scene.topics.settings("honest")
    scene.honest.client.subscribe(topic)
    scene.attacker().client.link.publish(topic, b"forged", retain=True)
    assert not [one for one in scene.honest.client.messages(seconds=0.5) if one.topic == topic]
    return ["acl"]


@attack("access", "acl")
def alert_in_the_hubs_name(scene: HubScene) -> Any:
    """A false alert, for consumers."""
    consumer = scene.client("analytics", client_id="grafana")
    consumer.open()
    consumer.subscribe(scene.topics.alert)
    scene.attacker().client.link.publish(scene.topics.alert, b"look over there")
    assert not [one for one in consumer.messages(seconds=0.5) if isinstance(one, Message) and one.payload == b"look over there"]
    return ["acl"]
