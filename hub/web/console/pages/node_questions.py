"""Ask before a node is held on its release or forgotten, and before the nodes of a selector get a label."""

import json
import re
from hashlib import blake2b
from typing import Final

from fleetcast.counted import counted as number_of
from fleetcast.counted import verb
from hub.core.nodes import device_settings
from hub.core.nodes.device_settings import SetNodeSettings
from hub.core.rollouts import commands
from hub.operations import forgetting, rollouts
from hub.operations.deployed import model_of
from hub.operations.node_changes import effect_of
from hub.operations.node_classes import NodeLine
from hub.operations.queueing import queue
from hub.web.console.page import Asking, Done, Given, Input, Question, View
from hub.web.console.sentence import bold, code, nodes_where, path, said
from schemas.deployments import DEFAULT, NAME_CHARACTERS_MAX, PRIORITY_MAX
from schemas.errors import Code, Refused
from schemas.limits import SELECTOR_CHARACTERS_MAX
from schemas.names import check_name

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
        etag=str(serial),
        figure=f"{node} serves {line.serves}",
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
    wish = {"name": name, "where": f"node={line.node.name}", "priority": priority, "release": line.serves, "if_serial": int(given.etag)}
    command = commands.read_as(commands.SetDeployment, json.dumps(wish | ({"why": given.reason} if given.reason else {})))
    prepared = rollouts.set_deployment(view.fleet, line.model, command)
    return Done(path("nodes", line.node.name), queue(view.fleet, prepared.model, prepared.command))


def ask_forget(view: View) -> Asking:
    """Return the question behind Forget."""
    node = view.params["node"]
    forgetting.check_known(view.fleet, node)
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
    keys, nobody = view.snapshot.nodes(where, "node")
    if not keys:
        raise Refused(Code.SELECTOR_INVALID, nobody)
    return Asking(
        heading=f"Label {number_of(len(keys), 'node')}?",
        text=said(
            *(f"{number_of(len(keys), 'node')} {'matches' if len(keys) == 1 else 'match'} ", bold(where), ". A label chooses by which "),
            "deployment a node is decided for: one that another deployment matches then moves to its release.",
        ),
        no="Leave them" if len(keys) > 1 else "Leave it",
        yes=f"Label {number_of(len(keys), 'node')}",
        cli=f"fleetcast nodes set --where '{where}' --label KEY=VALUE",
        back_to=nodes_where(where),
        fields=(Input("label", "Label, as key=value", characters_max=LABEL_CHARACTERS_MAX),),
        figure=f"{len(keys)} {verb(len(keys), 'match')}",
        etag=str(len(keys)),
        section="Nodes",
    )


def _where(view: View) -> str:
    where = view.query.get("where", "")
    if not where or len(where) > SELECTOR_CHARACTERS_MAX:
        raise Refused(Code.SELECTOR_INVALID, "choose nodes by a selector first, such as site=jfk")
    return where


def label(view: View, given: Given) -> Done:
    """Give the nodes of a selector a label, each that is matched now: the class of a node is no part of what the hub's selector knows."""
    where = _where(view)
    key, equals, value = given.fields["label"].strip().partition("=")
    if not equals:
        raise Refused(Code.REQUEST_INVALID, "a label is key=value, such as ring=canary")
    names = [name for _, name in view.snapshot.nodes(where, "node")[0]]
    text = where if "state" not in where else f"node in ({','.join(names)})"
    wish: SetNodeSettings = device_settings.read(
        json.dumps({"where": text, "labels": {key.strip(): value.strip()}, **({"why": given.reason} if given.reason else {})})
    )
    effect_of(view.fleet, wish)
    return Done(nodes_where(where), queue(view.fleet, "", wish))


QUESTIONS: Final = (
    Question("/nodes/label", "Labelling nodes", "operator", ask_label, label, frozenset({"where"})),
    Question("/nodes/{node}/hold/{model}", "Holding a node", "operator", ask_hold, hold),
    Question("/nodes/{node}/forget", "Forgetting a node", "admin", ask_forget, forget),
)
