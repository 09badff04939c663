"""Write what is made from the schemas: JSON Schemas, AsyncAPI, OpenAPI, the access lists, docs/protocol.md. A tool of the checkout.

`python -m tools.generate_schemas` writes, `--check` only names stale files, `--acl FLEET`, `--acl-consumers FLEET` and `--acl-rmqtt FLEET`
print one fleet's lists.
"""

import argparse
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fleetcast.error_help import MEANINGS
from hub.core.blueprint import document as blueprint_document
from hub.web import application
from schemas import limits, topics
from schemas.analytics_messages import Alert, Drift, DriftEvidence, Found, MergedWindow
from schemas.block_request import Want
from schemas.bundle import ModelBundle, TrustBundle, TrustRoles, TrustTime
from schemas.deployment_index import DeploymentIndex
from schemas.deployments import Envelope
from schemas.disclosure import CLASSES, fields
from schemas.document import Document
from schemas.enrolment import ENDPOINTS, TOKEN_PREFIX
from schemas.errors import Code, Refused
from schemas.lifecycle import EVENTS, MOVES, STATES
from schemas.receipt import SealedReceipt
from schemas.state import State
from schemas.window import Window
from tools import openapi
from tools.examples import EXAMPLES, MORE_EXAMPLES

CHECKOUT = Path(__file__).parents[1]
FLEET = "main"
DIALECT = "https://json-schema.org/draft/2020-12/schema"
MSGPACK, JSON, BYTES = "application/msgpack", "application/json", "application/octet-stream"

# Content of each row of the topic table, and the names of the levels that vary in it.
CARRIES: dict[str, tuple[type[Document] | None, str]] = {
    "trust": (TrustBundle, MSGPACK),
    "trust-time": (TrustTime, MSGPACK),
    "trust-roles": (TrustRoles, MSGPACK),
    "deployed": (DeploymentIndex, MSGPACK),
    "deploy": (Envelope, MSGPACK),
    "model": (ModelBundle, MSGPACK),
    "block": (None, BYTES),
    "hub": (Envelope, MSGPACK),
    "want": (Want, MSGPACK),
    "state": (State, MSGPACK),
    "receipt": (SealedReceipt, MSGPACK),
    "settings": (Envelope, MSGPACK),
    "telemetry": (Window, MSGPACK),
    "windows": (MergedWindow, JSON),
    "drift": (Drift, JSON),
    "alert": (Alert, JSON),
}
JSON_BESIDE = {DriftEvidence, Found}  # Documents that travel by webhook.
LEVELS = {
    "model": ("model",),
    "block": ("digest",),
    "telemetry": ("model", "cohort"),
    "windows": ("model",),
    "drift": ("model",),
    "deploy": ("model",),
}
LEVEL_MEANS = {
    "fleet": "the fleet's name",
    "model": "the model's name",
    "digest": "SHA-256 of the payload, 64 hexadecimal digits",
    "node": "the node's id, which is its certificate's CN and its user name",
    "cohort": "nodes that are compared together",
}
EXAMPLE_OF = {type(example): example for example in EXAMPLES}


def outputs() -> dict[str, str]:
    """Return every generated file, by its path in the checkout."""
    found = {f"schemas/json/{kind.schema_name}.json": _json(json_schema(kind)) for kind in EXAMPLE_OF}
    found["schemas/asyncapi.yaml"] = _yaml(asyncapi())
    found["node/serving/openapi.json"] = _json(openapi.document())
    found["hub/web/openapi.json"] = _json(application.described())
    found["docs/fleet.schema.json"] = _json(blueprint_document.json_schema())
    found["broker-config/acl"] = topics.access_list(FLEET)
    found["broker-config/acl-consumers"] = topics.consumer_access_list(FLEET)
    found["broker-config/rmqtt/plugins/rmqtt-acl.toml"] = topics.rmqtt_access_list(FLEET)
    found["docs/protocol.md"] = protocol_page()
    return found


def json_schema(kind: type[Document]) -> dict[str, Any]:
    """Return the document's JSON Schema. msgpack carries bytes as bytes; in JSON, and so here, they are hexadecimal."""
    schema: dict[str, Any] = _tidy(kind.model_json_schema(by_alias=True))
    for name, field in kind.model_fields.items():
        schema["properties"][field.alias or name]["title"] = name
    if kind not in JSON_BESIDE | {document for document, content in CARRIES.values() if content == JSON}:
        tag = {"const": f"{kind.schema_name}/{kind.schema_version}", "title": "schema name and version"}
        schema["properties"] = {"@": tag, **schema["properties"]}
        schema["required"] = ["@", *schema.get("required", [])]
    bounds = {"x-bytes-max": kind.bytes_max} | ({"x-decoded-bytes-max": kind.decoded_bytes_max} if kind.decoded_bytes_max else {})
    return {"$schema": DIALECT, "$id": f"urn:fleetcast:{kind.schema_name}:{kind.schema_version}", **schema, **bounds}


def as_json(document: Document) -> dict[str, Any]:
    """Return the document as its JSON Schema describes it."""
    fields: dict[str, Any] = document.model_dump(mode="json", by_alias=True, exclude_none=True)
    content = {kind: content for kind, content in CARRIES.values() if kind}.get(type(document), MSGPACK)
    content = JSON if type(document) in JSON_BESIDE else content
    tag = {} if content == JSON else {"@": f"{document.schema_name}/{document.schema_version}"}
    return {**tag, **{name: _without_nothing(value) for name, value in fields.items()}}


def _without_nothing(value: Any) -> Any:
    """Return rows as the codec writes them: trailing fields without a value are left out."""
    if isinstance(value, dict):
        return {key: _without_nothing(item) for key, item in value.items()}
    if isinstance(value, list):
        while value and value[-1] is None:
            value = value[:-1]
        return [_without_nothing(item) for item in value]
    return value


def asyncapi() -> dict[str, Any]:
    """Return AsyncAPI 3.0: channels, senders and receivers, and the messages with an example each."""
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "fleetcast",
            "version": "1",
            "description": "Everything that crosses the broker. Generated by `make generate` from schemas/: do not edit.",
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": MSGPACK,
        "channels": {kind.name: _channel(kind) for kind in topics.TABLE},
        "operations": {
            f"{party}-{verb}-{kind.name}": _operation(kind, verb)
            for kind in topics.TABLE
            for party, verb in [(kind.writer, "send"), *((reader, "receive") for reader in kind.readers)]
        },
        "components": {"messages": {kind.name: _message(kind) for kind in topics.TABLE}},
    }


def protocol_page() -> str:
    """Return docs/protocol.md: topics, documents, codes, the life of a model slot, bounds."""
    lines = [
        "# Protocol",
        "",
        "Generated by `make generate` from `schemas/`: do not edit. The same, for machines: `schemas/asyncapi.yaml` and `schemas/json/`.",
        "",
        f"MQTT 5, QoS 1 everywhere, all topics under `{topics.ROOT}/<fleet>/`. Documents are canonical msgpack: sorted keys, shortest",
        "integers, no duplicates, no extension types, and `@` naming the schema and its version; what consumers read is JSON, where",
        "bytes are hexadecimal. Sizes are checked before anything is decoded. A message is acknowledged when its effect is durable.",
        "Handlers are idempotent and rely on no order across topics.",
        "",
        "## Versions",
        "",
        "`@` is the schema and its major version, such as `rollout/1`. `@.` is the minor version, a whole number from 1; it is left out",
        "when it is 0. A sender writes the lowest minor version that has every field of the document, so a document without new fields",
        "is the same bytes as ever, and older readers take it.",
        "",
        "- A document of another major version is refused with `schema.unsupported`, which names both versions and the side to upgrade.",
        "- A document of a higher minor version than the reader's is read without what the reader does not know: keys of maps, and",
        "  trailing entries of rows, at any depth. It must still be canonical as a whole, and what is known is checked as always.",
        "- A document of the reader's minor version, or a lower one, is refused with `schema.malformed` if a field is unknown.",
        "- Digests and signatures are over the bytes as received, so they hold for readers that know fewer fields.",
        "",
        "[Decision 27](decisions/0027-minor-versions.md) gives the reasons, and what a new field must be.",
        "",
        "## Topics",
        "",
        "| topic | written by | read by | retained | carries | bytes at most | what |",
        "|---|---|---|---|---|---|---|",
    ]
    for kind in topics.TABLE:
        document, content = CARRIES[kind.name]
        carries = f"`{document.schema_name}`" if document else "one payload"
        carries += " (JSON)" if content == JSON else ""
        bound = document.bytes_max if document else limits.PAYLOAD_BYTES_MAX
        retained = "yes" if kind.retained else "no"
        readers = ", ".join(kind.readers)
        lines.append(f"| `{_address(kind)}` | {kind.writer} | {readers} | {retained} | {carries} | {bound:,} | {kind.what} |")
    lines += [
        "",
        "## Enrolment",
        "",
        f"Over HTTPS at the hub, bodies as `application/msgpack`. A token is `{TOKEN_PREFIX}.<pin>.<secret>`, both base64url: SHA-256 of",
        "two digests, that of the fleet's root certificate's SubjectPublicKeyInfo and that of its first trust root, and 32 random bytes. A",
        "device fetches `authority` unverified, compares the pin, and from then on speaks only over connections that this certificate",
        "vouches for. Refusals have status 400, 403 or 413 and carry `enrolment-refused`; 408, 429 and 5xx mean: later.",
        "",
        "| request | carries | answered with | what |",
        "|---|---|---|---|",
    ]
    for row in ENDPOINTS:
        lines.append(f"| `{row.method} {row.path}` | {f'`{row.asks}`' if row.asks else ''} | `{row.answers}` | {row.what} |")
    lines += ["", "## Documents", "", "| document | version | what |", "|---|---|---|"]
    for one in EXAMPLE_OF:
        link, version = f"[`{one.schema_name}`](../schemas/json/{one.schema_name}.json)", f"{one.schema_version}.{one.schema_minor}"
        lines.append(f"| {link} | {version} | {_first_line(one)} |")
    lines += [
        "",
        "## Codes",
        "",
        "Why something was refused, in receipts, alerts, logs and exit messages. A code never changes its meaning; the sentence beside it",
        "names what was expected and what was found.",
        "",
    ]
    lines += ["| code | what is wrong | what mends it |", "|---|---|---|"]
    lines += [f"| `{code.value}` | {MEANINGS[code][0]} | {MEANINGS[code][1]} |" for code in Code]
    lines += ["", *_life()]
    lines += ["", *_disclosure()]
    lines += ["", "## Bounds", "", "| bound | value | why |", "|---|---|---|", *_bounds()]
    return "\n".join(lines) + "\n"


def _disclosure() -> list[str]:
    """Return what leaves a node, field by field, with its class."""
    walked = [(field, CLASSES[field]) for field in fields()]
    public: dict[str, list[str]] = {}
    for field, found in walked:
        if found.kind == "public":
            public.setdefault(field.owner, []).append(f"`{field.name}`")
    return [
        "## What leaves a node",
        "",
        "Each field of each document that a node sends, and each level of its topics, has a class (`schemas/disclosure.py`), and a test",
        "walks them all. **Public** fields are of releases, the hub's documents, the device, its link and its clock: no row changes them.",
        "**Charged** fields derive from rows under noise, and are paid for in the privacy ledger. A **verdict** is one code, or one step,",
        "over a stated threshold. Fields that are **unwritten** are read of earlier nodes; a node of this version sends their defaults.",
        "",
        "| document | field | class | why |",
        "|---|---|---|---|",
        *(f"| {field.owner} | `{field.name}` | {found.kind} | {found.why} |" for field, found in walked if found.kind != "public"),
        *(f"| {owner} | {', '.join(names)} | public | |" for owner, names in public.items()),
    ]


def _life() -> list[str]:
    """Return the states of a model slot and the moves between them, from the table by which nodes move."""
    order = list(STATES)
    arrows: dict[tuple[str, str], list[str]] = {}
    for (before, event), after in MOVES.items():
        if before != after:
            arrows.setdefault((before, after), []).append(event)
    diagram = [f"    {before} --> {after}: {', '.join(events)}" for (before, after), events in arrows.items()]
    columns = ["state", *(event for event in EVENTS)]
    rows = [[f"**{state}**", *(MOVES.get((state, event), "") for event in EVENTS)] for state in order]
    return [
        "## The life of a model slot",
        "",
        "One slot a model, on every node. It moves by this table (`schemas/lifecycle.py`); what the table does not name changes nothing. A",
        "move is durable, together with the receipt of a failure, before anything is done about it, and the node keeps its moves, so that",
        "they can be replayed. `refused` and `rolled_back` carry one of the codes above. While something newer is under way, what is",
        "served stays served.",
        "",
        "```mermaid",
        "stateDiagram-v2",
        "    [*] --> idle",
        *diagram,
        "```",
        "",
        "| state | what it means |",
        "|---|---|",
        *(f"| `{state}` | {what} |" for state, what in STATES.items()),
        "",
        "| event | what happened |",
        "|---|---|",
        *(f"| `{event}` | {what} |" for event, what in EVENTS.items()),
        "",
        "Where each event leads from each state; where nothing stands, it cannot happen:",
        "",
        "| " + " | ".join(columns) + " |",
        "|" + "---|" * len(columns),
        *("| " + " | ".join(row) + " |" for row in rows),
    ]


def stale(root: Path) -> list[str]:
    """Return the paths whose content differs from the generated one, and files that nothing generates any more."""
    wanted = outputs()
    found = [path for path, text in wanted.items() if not (root / path).is_file() or (root / path).read_text(encoding="utf-8") != text]
    left = {f"schemas/json/{path.name}" for path in (root / "schemas" / "json").glob("*")} - wanted.keys()
    return sorted([*found, *left])


def write(root: Path) -> list[str]:
    """Write stale files, remove files that nothing generates any more, and return the paths."""
    wanted, changed = outputs(), stale(root)
    for path in changed:
        if path in wanted:
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_text(wanted[path], encoding="utf-8")
        else:
            (root / path).unlink()
    return changed


def _channel(kind: topics.TopicKind) -> dict[str, Any]:
    names = re.findall(r"{(\w+)}", _address(kind))
    return {
        "address": f"{topics.ROOT}/{{fleet}}/{_address(kind)}",
        "description": kind.what,
        "parameters": {name: {"description": LEVEL_MEANS[name]} for name in ["fleet", *names]},
        "messages": {kind.name: {"$ref": f"#/components/messages/{kind.name}"}},
    }


def _operation(kind: topics.TopicKind, verb: str) -> dict[str, Any]:
    binding: dict[str, Any] = {"qos": 1, "bindingVersion": "0.2.0"}
    if verb == "send":
        binding["retain"] = kind.retained
    return {
        "action": verb,
        "channel": {"$ref": f"#/channels/{kind.name}"},
        "messages": [{"$ref": f"#/channels/{kind.name}/messages/{kind.name}"}],
        "bindings": {"mqtt": binding},
    }


def _message(kind: topics.TopicKind) -> dict[str, Any]:
    document, content = CARRIES[kind.name]
    if document is None:
        return {
            "contentType": content,
            "summary": "The encoded bytes of one block; their SHA-256 is the topic's last level.",
            "payload": {"type": "string", "format": "binary", "maxLength": limits.PAYLOAD_BYTES_MAX},
        }
    summary = _first_line(document)
    if document.decoded_bytes_max is not None:
        summary += f" On the wire it is a zstd frame of msgpack, which unpacks to at most {document.decoded_bytes_max:,} bytes."
    return {
        "contentType": content,
        "summary": summary,
        "payload": {
            "schemaFormat": "application/schema+json;version=2020-12",
            "schema": {"$ref": f"./json/{document.schema_name}.json"},
        },
        "examples": [
            {"name": name, "payload": as_json(example)}
            for name, example in [(document.schema_name, EXAMPLE_OF[document]), *MORE_EXAMPLES]
            if type(example) is document
        ],
    }


def _address(kind: topics.TopicKind) -> str:
    names = iter(LEVELS.get(kind.name, ()))
    return "/".join(f"{{{next(names)}}}" if level == "{}" else level for level in kind.pattern.split("/"))


def _tidy(node: Any) -> Any:
    """Change bytes to hexadecimal, with bounds counted in digits, and remove titles that only repeat the name."""
    if isinstance(node, list):
        return [_tidy(item) for item in node]
    if not isinstance(node, dict):
        return node
    tidy = {key: _tidy(value) for key, value in node.items() if not (key == "title" and isinstance(value, str))}
    if tidy.get("format") == "binary":
        del tidy["format"]
        tidy |= {key: 2 * tidy[key] for key in ("minLength", "maxLength") if key in tidy}
        tidy |= {"contentEncoding": "base16", "pattern": "^([0-9a-f]{2})*$"}
    return tidy


def _bounds() -> list[str]:
    """Return rows of the table of bounds, from the assignments in limits.py and the reason beside each."""
    rows = []
    for line in Path(limits.__file__).read_text(encoding="utf-8").splitlines():
        match = re.fullmatch(r"([A-Z_]+_MAX) = [^#]+?(?:  # (.*))?", line)
        if match:
            rows.append(f"| `{match[1]}` | {getattr(limits, match[1]):,} | {match[2] or ''} |")
    return rows


def _first_line(kind: type[Document]) -> str:
    return (kind.__doc__ or "").strip().splitlines()[0]


def _json(value: object) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def _yaml(value: object) -> str:
    try:
        import yaml  # noqa: PLC0415  # Only the generator needs it; a device does not.
    except ModuleNotFoundError:
        raise SystemExit("tools.generate_schemas needs PyYAML, which `make generate` installs") from None

    text: str = yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=140)
    return "# Generated by `make generate` from schemas/: do not edit.\n" + text


def main(arguments: list[str] | None = None, *, root: Path = CHECKOUT, say: Callable[[str], object] = sys.stdout.write) -> int:
    """Run the command; return 1 when `--check` found something stale, 2 when the fleet's name is invalid."""
    parser = argparse.ArgumentParser(prog="python -m tools.generate_schemas", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if something is stale")
    parser.add_argument("--acl", metavar="FLEET", help="print the access list of this fleet's hub and nodes")
    parser.add_argument("--acl-consumers", metavar="FLEET", help="print the access list of this fleet's consumers")
    parser.add_argument("--acl-rmqtt", metavar="FLEET", help="print the access list of this fleet, for rmqttd's plugin rmqtt-acl")
    parser.add_argument(
        "--bridge", metavar="NAME", action="append", default=[], help="with --acl: a site's bridge, by its certificate's CN"
    )
    options = parser.parse_args(arguments)
    try:
        if options.acl:
            say(topics.access_list(options.acl, options.bridge))
            return 0
        if options.acl_consumers:
            say(topics.consumer_access_list(options.acl_consumers))
            return 0
        if options.acl_rmqtt:
            say(topics.rmqtt_access_list(options.acl_rmqtt))
            return 0
    except Refused as refusal:
        say(f"{refusal}\n")
        return 2
    if options.check:
        found = stale(root)
        say("".join(f"stale: {path}; run `make generate`\n" for path in found))
        return 1 if found else 0
    say("".join(f"wrote {path}\n" for path in write(root)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
