"""Define every topic name: its writer, its readers, and whether it is retained. Makes the broker's access lists."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from schemas.errors import Code, Refused
from schemas.names import check_name, is_name

ROOT = "fleetcast/v1"
LEVELS_MAX = 8  # AWS allows 7 slashes.
TOPIC_CHARACTERS_MAX = 256
CONSUMER = "analytics"  # User name of all consumers.

Party = Literal["hub", "node", "consumer"]


@dataclass(frozen=True, slots=True)
class TopicKind:
    """Describe one row of the table; `{}` marks a level that varies, `{node}` the sender's own name."""

    name: str
    pattern: str
    writer: Party
    readers: tuple[Party, ...]
    retained: bool
    what: str


TABLE = (
    TopicKind("trust", "trust", "hub", ("node",), True, "for nodes before deployments: TUF metadata with every rollout"),
    TopicKind("trust-time", "trust/time", "hub", ("node",), True, "the TUF timestamp, hourly, and when other roles than rollouts changed"),
    TopicKind("trust-roles", "trust/roles", "hub", ("node",), True, "root chain, timestamp, snapshot, targets; fetched when needed"),
    TopicKind("deployed", "deployed", "hub", ("node",), True, "which nodes each model's deployments select: a hint, not signed"),
    TopicKind("deploy", "deploy/{}", "hub", ("node",), True, "a model's deployments, signed"),
    TopicKind("model", "model/{}", "hub", ("node",), True, "a model's delegated role and its current manifests"),
    TopicKind("block", "block/{}", "hub", ("node",), True, "one encoded block, named by its SHA-256; expires"),
    TopicKind("hub", "hub", "hub", ("hub",), True, "that a hub runs, signed: another with a copy of its keys notices it"),
    TopicKind("want", "want/{node}", "node", ("hub",), False, "a node's request for the blocks that it lacks"),
    TopicKind("state", "node/{node}/state", "node", ("hub", "consumer"), True, "a node's report of itself, and its Will"),
    TopicKind("receipt", "node/{node}/receipt", "node", ("hub",), False, "signed receipts and refusals"),
    TopicKind(
        "settings",
        "node/{node}/settings",
        "hub",
        ("node",),
        True,
        "signed settings of a node, which it alone reads; empty: the hub asks for receipts, or with `windows` for windows",
    ),
    TopicKind("telemetry", "telemetry/{}/{}", "node", ("hub", "consumer"), False, "windows of noisy counts; no node id"),
    TopicKind("windows", "insight/{}/windows", "hub", ("consumer",), False, "merged windows, JSON"),
    TopicKind("drift", "insight/{}/drift", "hub", ("consumer",), True, "the newest drift test, JSON"),
    TopicKind("alert", "alert", "hub", ("consumer",), False, "alerts for a person to look at, JSON"),
)
_PATTERNS = {kind.name: kind.pattern.split("/") for kind in TABLE}


@dataclass(frozen=True, slots=True)
class Address:
    """Hold a parsed topic: its row of the table, and the varying levels."""

    kind: str
    levels: tuple[str, ...]


class Topics:
    """Name the topics of one fleet."""

    def __init__(self, fleet: str) -> None:
        self.fleet = check_name("fleet", fleet)
        self.prefix = f"{ROOT}/{fleet}/"
        self.trust = self.prefix + "trust"
        self.trust_time = self.prefix + "trust/time"
        self.trust_roles = self.prefix + "trust/roles"
        self.deployed = self.prefix + "deployed"
        self.alert = self.prefix + "alert"
        self.hub = self.prefix + "hub"

    def model(self, model: str) -> str:
        """Return the topic of a model's role and manifests."""
        return f"{self.prefix}model/{model}"

    def deploy(self, model: str) -> str:
        """Return the topic of a model's deployments."""
        return f"{self.prefix}deploy/{model}"

    def block(self, digest: bytes) -> str:
        """Return the topic of one payload, by its digest."""
        return f"{self.prefix}block/{digest.hex()}"

    def want(self, node: str) -> str:
        """Return the topic of a node's requests."""
        return f"{self.prefix}want/{node}"

    def state(self, node: str) -> str:
        """Return the topic of a node's report of itself."""
        return f"{self.prefix}node/{node}/state"

    def receipt(self, node: str) -> str:
        """Return the topic of a node's receipts."""
        return f"{self.prefix}node/{node}/receipt"

    def settings(self, node: str) -> str:
        """Return the topic of what the hub sets of a node."""
        return f"{self.prefix}node/{node}/settings"

    def telemetry(self, model: str, cohort: str) -> str:
        """Return the topic of windows of one model from one cohort."""
        return f"{self.prefix}telemetry/{model}/{cohort}"

    def windows(self, model: str) -> str:
        """Return the topic of merged windows, for consumers."""
        return f"{self.prefix}insight/{model}/windows"

    def drift(self, model: str) -> str:
        """Return the topic of drift tests, for consumers."""
        return f"{self.prefix}insight/{model}/drift"

    def filter(self, kind: str) -> str:
        """Return the subscription that matches every topic of a kind."""
        return self.prefix + "/".join("+" if level.startswith("{") else level for level in _PATTERNS[kind])

    def other_fleet(self, topic: str) -> str:
        """Return the name of another fleet whose topic this is; "" where it is of this fleet, or of none."""
        root, _, rest = topic.partition(f"{ROOT}/")
        fleet = rest.partition("/")[0]
        return fleet if not root and fleet != self.fleet and is_name(fleet) else ""

    def parse(self, topic: str) -> Address:
        """Return the row of the table that a topic belongs to, and its varying levels.

        Raises:
            Refused: the topic is not one of this fleet's.
        """
        if topic.startswith(self.prefix) and len(topic) <= TOPIC_CHARACTERS_MAX:
            found = _address(topic[len(self.prefix) :])
            if found is not None:
                return found
        raise Refused(Code.SCHEMA_MALFORMED, f"{topic[:TOPIC_CHARACTERS_MAX]!r} is not a topic of fleet {self.fleet!r}")


@lru_cache(maxsize=1024)  # A fleet's windows use few topics, thousands a second.
def _address(rest: str) -> Address | None:
    parts = rest.split("/")
    for kind, pattern in _PATTERNS.items():
        if len(parts) == len(pattern) and all(p.startswith("{") or p == part for p, part in zip(pattern, parts, strict=True)):
            return Address(kind, tuple(part for p, part in zip(pattern, parts, strict=True) if p.startswith("{")))
    return None


def block_digest(address: Address) -> bytes:
    """Return the digest that a block's topic names.

    Raises:
        Refused: the level is not 64 hexadecimal digits in lower case.
    """
    # `fromhex` alone accepts spaces and capitals, which would give one block a second name.
    if not re.fullmatch("[0-9a-f]{64}", address.levels[0]):
        raise Refused(Code.SCHEMA_MALFORMED, f"{address.levels[0][:80]!r} is not a block's name")
    return bytes.fromhex(address.levels[0])


def access_list(fleet: str, bridges: Sequence[str] = (), processes: Sequence[str] = ()) -> str:
    """Return the access-control list of the hub's and the nodes' listener, in mosquitto's format; `bridges` are those of sites.

    `processes` are further ones of the hub, each with a name of its own, because two clients of one name end each other's connections.

    A node's user name is its certificate's CN and its node id; mosquitto puts it in place of `%u`. A pattern holds for every user, and
    a topic does not show who writes telemetry. So consumers, which must write nothing, have a listener and a list of their own.
    """
    prefix = f"{ROOT}/{check_name('fleet', fleet)}/"
    lines = [_head(fleet, "hub and nodes"), "", "user hub", f"topic readwrite {prefix}#", ""]
    for process in processes:
        lines += ["# A process of the hub", f"user {check_name('node', process)}", f"topic readwrite {prefix}#", ""]
    lines += ["# Consumers have a listener of their own", f"user {CONSUMER}", f"topic deny {prefix}#"]
    for bridge in bridges:
        lines += ["", "# A site's bridge speaks for whichever nodes are there", f"user {check_name('node', bridge)}"]
        lines += [
            f"topic write {prefix}{_levels(kind, own='+')}" for kind in TABLE if kind.writer == "node" and kind.name in {"state", "receipt"}
        ]
        lines += [f"topic read {prefix}{_levels(kind, own='+')}" for kind in TABLE if _is_own(kind) and "node" in kind.readers]
    lines += ["", "# Every node, by its own name"]
    lines += [f"pattern write {prefix}{_levels(kind, own='%u')}" for kind in TABLE if kind.writer == "node"]
    lines += [f"pattern read {prefix}{_levels(kind, own='%u')}" for kind in TABLE if "node" in kind.readers]
    return "\n".join(lines) + "\n"


def consumer_access_list(fleet: str) -> str:
    """Return the access-control list of the consumers' listener, in mosquitto's format: they read, and no other user has any right."""
    prefix = f"{ROOT}/{check_name('fleet', fleet)}/"
    lines = [_head(fleet, "consumers"), "", f"user {CONSUMER}"]
    lines += [f"topic read {prefix}{_levels(kind, own='+')}" for kind in TABLE if "consumer" in kind.readers]
    return "\n".join(lines) + "\n"


def rmqtt_access_list(fleet: str) -> str:
    """Return the access-control list for hub, nodes and consumers, as the plugin rmqtt-acl of rmqttd reads it.

    The user name is the certificate's CN (`cert_cn_as_username`), which the plugin puts in place of `%u`.
    """
    prefix = f"{ROOT}/{check_name('fleet', fleet)}/"

    def rule(may: str, user: str, does: str, kinds: Sequence[TopicKind], own: str) -> str:
        listed = ", ".join(f'"{prefix}{_levels(kind, own=own)}"' for kind in kinds)
        return f'    ["{may}", {user}, "{does}", [{listed}]],'

    consumer = f'{{ user = "{CONSUMER}" }}'
    rules = [
        _head(fleet, "hub, nodes and consumers"),
        "rules = [",
        '    ["allow", "all", "connect"],  # whom the listener has let in by certificate',
        f'    ["allow", {{ user = "hub" }}, "pubsub", ["{prefix}#"]],',
        rule("allow", consumer, "subscribe", [kind for kind in TABLE if "consumer" in kind.readers], "+"),
        f'    ["deny", {consumer}, "pubsub", ["#"]],',
        rule("allow", '"all"', "publish", [kind for kind in TABLE if kind.writer == "node"], "%u"),
        rule("allow", '"all"', "subscribe", [kind for kind in TABLE if "node" in kind.readers], "%u"),
        '    ["deny", "all"],',
        "]",
    ]
    return "\n".join(rules) + "\n"


def _head(fleet: str, who: str) -> str:
    return f"# What {who} may do in fleet {fleet!r}. Generated from schemas/topics.py: do not edit."


def _is_own(kind: TopicKind) -> bool:
    return "{node}" in kind.pattern


def _levels(kind: TopicKind, *, own: str) -> str:
    return kind.pattern.replace("{node}", own).replace("{}", "+")
