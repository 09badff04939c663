"""Ask before a node is held on its release or forgotten, and before the nodes of a selector get a label."""

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Any, Final

from fleetcast.counted import counted as number_of
from hub.core.nodes import device_settings
from hub.core.nodes.device_settings import SetNodeSettings
from hub.core.rollouts import commands
from hub.core.rollouts.node_filter import STATE_KEY
from hub.database.device_lives import DeviceLives
from hub.operations import forgetting, rollouts
from hub.operations.deployed import model_of
from hub.operations.node_changes import document_of, effect_of
from hub.operations.node_classes import NodeLine
from hub.operations.queueing import queue
from hub.web.console.page import Asking, Done, Given, Input, Question, View, etag_of, serial_of, stale
from hub.web.console.sentence import bold, code, named, nodes_where, path, said
from schemas.deployments import DEFAULT, NAME_CHARACTERS_MAX, PRIORITY_MAX
from schemas.errors import Code, Refused
from schemas.limits import SELECTOR_CHARACTERS_MAX, SELECTOR_VALUES_MAX
from schemas.names import LABEL_PATTERN, check_name, sha256
from schemas.selectors import NODE_KEY, Requirement, parse, text_of

HOLD_PRIORITY: Final = 100
LABEL_CHARACTERS_MAX: Final = 200


def ask_hold(view: View) -> Asking:
    """Return the question behind Hold."""
    line, name, priority, serial = _to_hold(view)
    node = line.node.name
    return Asking(
        heading=f"Hold {node} on {line.serves}?",
        text=said(
            *("A deployment ", code(name), f" of priority {priority} is made; it decides for this one node until you remove it. "),
            *("Now ", bold(line.deployment), " decides."),
        ),
        no="Leave it",
        yes=f"Hold {node}",
        cli=f"fleetcast deploy set {line.model} {name} --where node={node} --priority {priority} --release {line.serves}",
        back_to=path("nodes", node),
        etag=etag_of(serial, line.serves, line.deployment),
        figure=f"{node} serves {line.serves} by {line.deployment}",
        section="Nodes",
    )


def _to_hold(view: View) -> tuple[NodeLine, str, int, int]:
    node, model = check_name("node", view.params["node"]), check_name("model", view.params["model"])
    line = next((one for one in view.snapshot.by_node.get(node, ()) if one.model == model), None)
    if line is None:
        raise Refused(Code.NODE_UNKNOWN, f"no deployment of {model} decides for node {node!r}, or it is not known")
    if line.serves is None:
        raise Refused(Code.ROLLOUT_INVALID, f"node {node} serves no release of {model} that it could be held on")
    present = model_of(view.fleet.repository, model)
    above = max((one.priority for one in present.deployments if one.name != DEFAULT), default=0)
    return line, hold_name(node), min(PRIORITY_MAX, max(HOLD_PRIORITY, above + 1)), present.serial


def hold_name(node: str) -> str:
    """Return the name of the deployment that holds a node."""
    plain = re.sub(r"[^a-z0-9-]+", "-", node.lower()).strip("-")
    name = f"hold-{plain}"
    if plain == node and len(name) <= NAME_CHARACTERS_MAX:
        return name
    digest = blake2b(node.encode(), digest_size=4).hexdigest()
    return f"{name[: NAME_CHARACTERS_MAX - 9].strip('-')}-{digest}"


def hold(view: View, given: Given) -> Done:
    """Hold a node on what it serves."""
    line, name, priority, _ = _to_hold(view)
    wish = {
        "name": name,
        "where": f"node={line.node.name}",
        "priority": priority,
        "release": line.serves,
        "if_serial": serial_of(given.etag),
    }
    command = commands.read_as(commands.SetDeployment, json.dumps(wish | ({"why": given.reason} if given.reason else {})))
    prepared = rollouts.set_deployment(view.fleet, line.model, command)
    return Done(path("nodes", line.node.name), queue(view.fleet, prepared.model, prepared.command))


def ask_forget(view: View) -> Asking:
    """Return the question behind Forget."""
    node = view.params["node"]
    forgetting.check_known(view.fleet, node)
    life = DeviceLives(view.fleet.store.database).life(node)
    if life is not None and life.state == "forgotten":
        raise Refused(Code.NODE_FORGOTTEN, f"node {node} is forgotten already")
    row = view.fleet.store.node(node)
    key = sha256(row.public_key).hex()[:16] if row is not None and row.public_key else ""
    return Asking(
        heading=f"Forget {node}?",
        text=said("Its certificate is revoked, and it leaves every count and list. It cannot come back without a new token."),
        no="Keep it",
        yes=f"Forget {node}",
        cli=f"fleetcast nodes forget {node}",
        back_to=path("nodes", node),
        is_stop=True,
        needs_reason=True,
        type_name=node,
        etag=etag_of(0, key),
        figure=f"the device has key {key}" if key else "it has no key",
        section="Nodes",
    )


def forget(view: View, given: Given) -> Done:
    """Forget a node."""
    node = view.params["node"]
    forgetting.forget(view.fleet, node)
    view.fleet.store.add_event("device", f"node {node} was forgotten, because: {given.reason}", {"node": node, "why": given.reason})
    return Done(path("nodes"))


def ask_label(view: View) -> Asking:
    """Return the question behind Label, for the nodes that a selector matches."""
    where = _where(view)
    names = _matched(view, where)
    serials = _serials(view, names)
    count = number_of(len(names), "node")
    return Asking(
        heading=f"Label {count}?",
        text=said(
            *(f"{count} {'matches' if len(names) == 1 else 'match'} ", bold(where), f": {named(names)}. A label chooses by which "),
            "deployment a node is decided for: one that another deployment matches then moves to its release.",
        ),
        no="Leave them" if len(names) > 1 else "Leave it",
        yes=f"Label {count}",
        cli=shlex.join(["fleetcast", "nodes", "label", "--where", where, "KEY=VALUE"]),
        blanks="your label",
        back_to=nodes_where(where),
        fields=(Input("label", "Label, as key=value", characters_max=LABEL_CHARACTERS_MAX),),
        figure=_figure(view, names, serials),
        etag=etag_of(0, serials),
        section="Nodes",
    )


def _where(view: View) -> str:
    where = view.query.get("where", "")
    if not where or len(where) > SELECTOR_CHARACTERS_MAX:
        raise Refused(Code.SELECTOR_INVALID, "choose nodes by a selector first, such as site=jfk")
    return where


def _matched(view: View, where: str) -> Sequence[str]:
    keys, nobody = view.snapshot.nodes(where, "node")
    if not keys:
        raise Refused(Code.SELECTOR_INVALID, nobody)
    return [name for _, name in keys]


def _serials(view: View, names: Sequence[str]) -> Mapping[str, int]:
    """Return the serials of what the hub sets of each node: what somebody sets meanwhile raises them."""
    repository = view.fleet.repository
    have = repository.nodes_with_settings()  # Listed once: of ten thousand nodes few have any.
    found = {name: document_of(repository, name) for name in names if name in have}
    return {name: one.serial if (one := found.get(name)) is not None else 0 for name in names}


def _figure(view: View, names: Sequence[str], serials: Mapping[str, int]) -> str:
    if len(names) == 1:
        document = document_of(view.fleet.repository, names[0])
        labels = ",".join(f"{key}={value}" for key, value in sorted((document.labels or {}).items())) if document is not None else ""
        return f"{names[0]}, on which the hub sets {labels or 'no label'}"
    return f"{number_of(len(names), 'node')}, {named(names)}, whose settings were changed {number_of(sum(serials.values()), 'time')}"


def label(view: View, given: Given) -> Done:
    """Give the nodes of a selector a label: those that the question named, and no others that match by the time the hub obeys."""
    where = _where(view)
    key, equals, value = given.fields["label"].strip().partition("=")
    if not equals:
        raise Refused(Code.REQUEST_INVALID, "a label is key=value, such as ring=canary")
    _check_label(key.strip(), value.strip())
    names = _matched(view, where)
    serials = _serials(view, names)
    if etag_of(0, serials) != given.etag:
        raise stale("the nodes that match, or their settings, have changed")
    asked = {"labels": {key.strip(): value.strip()}, **({"why": given.reason} if given.reason else {})}
    wish: SetNodeSettings = device_settings.read(json.dumps({**_these(where, names, serials), **asked}))
    effect_of(view.fleet, wish)
    return Done(nodes_where(where), queue(view.fleet, "", wish))


def _these(where: str, names: Sequence[str], serials: Mapping[str, int]) -> Mapping[str, Any]:
    """Return which nodes a command is about: by their names, as long as a selector can hold them.

    Raises:
        Refused: SELECTOR_INVALID: they are too many for that, and were chosen by their class, which the hub's selectors do not know.
    """
    if len(names) == 1:
        return {"node": names[0], "if_serial": serials[names[0]]}
    if len(names) <= SELECTOR_VALUES_MAX:
        text = text_of((Requirement(NODE_KEY, "in", tuple(names)),))
        if len(text) <= SELECTOR_CHARACTERS_MAX:
            return {"where": text}
    if any(one.key == STATE_KEY for one in parse(where)):
        reason = f"{number_of(len(names), 'node')} of a class are too many to be labelled at once: {SELECTOR_VALUES_MAX} are allowed"
        raise Refused(Code.SELECTOR_INVALID, f"{reason}; narrow the selector, such as by site=jfk")
    return {"where": where}


def _check_label(key: str, value: str) -> None:
    """Check the two sides of a label.

    Raises:
        Refused: REQUEST_INVALID, in the words of somebody who writes one.
    """
    for side, text in (("key", key), ("value", value)):
        if not re.fullmatch(LABEL_PATTERN, text):
            held = f", not {text[:80]!r}" if text else ""
            reason = f"the {side} of a label has 1 to 63 letters, digits, dots, hyphens and underscores{held}"
            raise Refused(Code.REQUEST_INVALID, reason)


QUESTIONS: Final = (
    Question("/nodes/label", "Labelling nodes", "operator", ask_label, label, frozenset({"where"}), subject="the nodes", reads_anew=True),
    Question("/nodes/{node}/hold/{model}", "Holding a node", "operator", ask_hold, hold, subject="the node", levels=2),
    Question("/nodes/{node}/forget", "Forgetting a node", "admin", ask_forget, forget, subject="the nodes", levels=2),
)
