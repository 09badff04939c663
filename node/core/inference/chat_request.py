"""Parse a chat completion request (OpenAI's schema), strictly and before it waits for a model. Knows no HTTP and no runtime.

Whatever is wrong here is the client's mistake. A runtime may rely on the types, and on every text being Unicode.
"""

import json
import re
from collections.abc import Mapping
from typing import Any, Final, NoReturn

from node.core.inference.json_body import DEEP, json_object
from node.core.inference.tensors import refuse_request
from schemas.errors import Code, Refused, mismatch
from schemas.limits import KIB
from schemas.parameters import Parameters

ROLES: Final = ("system", "developer", "user", "assistant", "tool")
MESSAGES_MAX: Final = 1024  # More than any context that a device holds.
NAME: Final = re.compile(r"[A-Za-z0-9_.:-]{1,64}")  # OpenAI's rule for names: no control token fits into it.
STOPS_MAX: Final = 16
STOP_CHARACTERS_MAX: Final = 256
WHOLE_MAX: Final = 2**63
SCHEMA_BYTES_MAX: Final = 16 * KIB  # A schema becomes a grammar, which every token of the answer is compared with.
SCHEMA_DEPTH_MAX: Final = 24
SCHEMA_PARTS_MAX: Final = (
    256  # Fields, choices and the like together: 1500 choices hold a worker up for as long as a hung one is waited for.
)
REPETITIONS_MAX: Final = 512  # In a schema: minItems, maxLength and the like are written out in the grammar.
PATTERN_CHARACTERS_MAX: Final = 256
REPETITIONS: Final = ("minItems", "maxItems", "minLength", "maxLength", "minProperties", "maxProperties")
FORMATS: Final = ("text", "json_object", "json_schema")
# Values with which a stock client says what leaving the field out says.
NEUTRAL: Final[Mapping[str, tuple[Any, ...]]] = {
    "n": (1,),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "logit_bias": ({},),
    "tools": ([],),
    "functions": ([],),
    "tool_choice": ("none", "auto"),
    "function_call": ("none", "auto"),
    "parallel_tool_calls": (True, False),
    "modalities": (["text"],),
    "store": (False,),
    "service_tier": ("auto", "default"),
}
NUMBERS: Final[Mapping[str, tuple[float, float]]] = {
    "temperature": (0, 2),
    "top_p": (0, 1),
    "presence_penalty": (-2, 2),
    "frequency_penalty": (-2, 2),
}
WHOLES: Final = ("max_tokens", "max_completion_tokens", "seed")
ALIASES: Final[Mapping[str, tuple[str, ...]]] = {"max_tokens": ("max_completion_tokens",)}
SPOKEN: Final = ("content", "reasoning_content")  # Fields of a message that hold somebody's words.
NAMES: Final = ("name", "tool_call_id")


def parse_chat(payload: bytes) -> dict[str, Any]:
    """Return the request: types are checked, each message's content is a text, `stream` is set, and what says nothing is left out.

    A field that is not known here is left as it is: a runtime may know it, or refuses it.

    Raises:
        Refused: REQUEST_INVALID, naming the field.
    """
    body = _object(payload)
    if not isinstance(body.get("model"), str):
        raise refuse_request("model must be the name of a model")
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages or not all(isinstance(message, dict) for message in messages):
        raise refuse_request("messages must be a list of at least one object")
    if len(messages) > MESSAGES_MAX:
        raise mismatch(Code.REQUEST_INVALID, "messages", expected=f"at most {MESSAGES_MAX}", actual=len(messages))
    given = {name: value for name, value in body.items() if value is not None and not _is_neutral(name, value)}
    if "n" in given:
        raise mismatch(Code.REQUEST_INVALID, "n", expected=1, actual=shown(given["n"]))
    if type(given.get("stream", False)) is not bool:
        raise mismatch(Code.REQUEST_INVALID, "stream", expected="true or false", actual=shown(given["stream"]))
    for name, (low, high) in NUMBERS.items():
        if name in given:
            given[name] = number(name, given[name], low, high)
    for name in WHOLES:
        if name in given:
            given[name] = whole(name, given[name], -WHOLE_MAX, WHOLE_MAX)
    if "stop" in given:
        given["stop"] = _stops(given["stop"])
    if not isinstance(given.get("user", ""), str):
        raise mismatch(Code.REQUEST_INVALID, "user", expected="a text", actual=shown(given["user"]))
    _check_stream_options(given.get("stream_options", {}))
    if "response_format" in given:
        _check_format(given["response_format"])
        if given["response_format"]["type"] == "text":
            del given["response_format"]
    return {**given, "messages": [_message(message) for message in messages], "stream": given.get("stream", False)}


def check_bounds(turn: Mapping[str, Any], parameters: Parameters, release: str) -> None:
    """Check that what a request sets for itself is within the bounds that the release's publisher allows.

    Raises:
        Refused: REQUEST_INVALID, naming the field, the bounds and the release.
    """
    for parameter in parameters:
        if parameter.goes_to != "runtime" or parameter.min is None or parameter.max is None:
            continue
        for name in (parameter.name, *ALIASES.get(parameter.name, ())):
            value = turn.get(name, parameter.min)
            if isinstance(value, int | float) and not parameter.min <= value <= parameter.max:
                expected = f"{parameter.min:g} to {parameter.max:g}, which release {release} allows"
                raise mismatch(Code.REQUEST_INVALID, name, expected=expected, actual=shown(value))


def number(name: str, value: object, low: float, high: float) -> float:
    """Return a number between two bounds.

    Raises:
        Refused: REQUEST_INVALID.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise mismatch(Code.REQUEST_INVALID, name, expected=f"{low:g} to {high:g}", actual=shown(value))
    return value


def whole(name: str, value: object, low: int, high: int) -> int:
    """Return a whole number between two bounds; 2.0 is one, 2.7 is not.

    Raises:
        Refused: REQUEST_INVALID.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value // 1:
        raise mismatch(Code.REQUEST_INVALID, name, expected="a whole number", actual=shown(value))
    if not low <= value <= high:
        raise mismatch(Code.REQUEST_INVALID, name, expected=f"{low} to {high}", actual=shown(value))
    return int(value)


def shown(value: object) -> str:
    """Return a client's value, short enough to be repeated to it."""
    return str(value)[:64]


def _object(payload: bytes) -> dict[str, Any]:
    body = json_object(payload, constants=_refuse_constant)
    try:
        json.dumps(body, allow_nan=False, ensure_ascii=False).encode()  # 1e400 has become an infinity, "\ud800" half a character
    except UnicodeEncodeError:
        raise refuse_request("a text of the body holds half a character (a lone surrogate)") from None
    except ValueError:
        raise refuse_request("a number of the body is larger than any that can be computed with") from None
    except RecursionError:
        raise refuse_request(DEEP) from None
    return body


def _refuse_constant(name: str) -> NoReturn:
    raise refuse_request(f"the body holds {name}, which JSON does not have")


def _is_neutral(name: str, value: object) -> bool:
    return any(type(value) is type(one) and value == one for one in NEUTRAL.get(name, ()))


def _message(message: dict[str, Any]) -> dict[str, Any]:
    role = message.get("role")
    if role not in ROLES:
        raise mismatch(Code.REQUEST_INVALID, "role of a message", expected=", ".join(ROLES), actual=shown(role))
    given: dict[str, Any] = {"role": role, "content": _text(message.get("content"), is_optional=role == "assistant")}
    for name, value in message.items():
        if name in NAMES and value is not None:
            if not isinstance(value, str) or not NAME.fullmatch(value):
                raise mismatch(Code.REQUEST_INVALID, f"{name} of a message", expected="letters, digits, _ . : -", actual=shown(value))
            given[name] = value
        elif name in SPOKEN and name != "content" and value is not None:
            given[name] = _text(value, is_optional=False)
        elif name not in ("role", "content", *NAMES) and value not in (None, [], {}, ""):
            raise refuse_request(f"{name[:64]} of a message is not understood here")
    return given


def _text(content: object, *, is_optional: bool) -> str:
    """Return a message's text, or those of its parts, a line each."""
    if isinstance(content, str):
        return content
    if content is None and is_optional:
        return ""
    if not isinstance(content, list):
        raise mismatch(Code.REQUEST_INVALID, "content of a message", expected="a text or a list of texts", actual=shown(content))
    texts = []
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else part
        if kind != "text":
            raise mismatch(
                Code.REQUEST_INVALID, "content of a message", expected="parts of type text (this model takes text only)", actual=shown(kind)
            )
        if not isinstance(part.get("text"), str):
            raise mismatch(Code.REQUEST_INVALID, "content of a message", expected="a text in its part", actual=shown(part.get("text")))
        texts.append(part["text"])
    return "\n".join(texts)


def _stops(value: object) -> list[str]:
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or len(texts) > STOPS_MAX:
        raise mismatch(Code.REQUEST_INVALID, "stop", expected=f"a text, or at most {STOPS_MAX}", actual=shown(value))
    for text in texts:
        if not isinstance(text, str) or not 1 <= len(text) <= STOP_CHARACTERS_MAX:
            raise mismatch(Code.REQUEST_INVALID, "stop", expected=f"texts of 1 to {STOP_CHARACTERS_MAX} characters", actual=shown(text))
    return texts


def _check_stream_options(options: object) -> None:
    if not isinstance(options, dict):
        raise mismatch(Code.REQUEST_INVALID, "stream_options", expected="an object", actual=shown(options))
    for name, value in options.items():
        if name not in ("include_usage", "include_obfuscation") or not isinstance(value, bool | None):
            raise mismatch(Code.REQUEST_INVALID, "stream_options", expected="include_usage: true or false", actual=shown(options))


def _check_format(form: object) -> None:
    if not isinstance(form, dict) or form.get("type") not in FORMATS:
        kind = form.get("type") if isinstance(form, dict) else form
        raise mismatch(Code.REQUEST_INVALID, "response_format", expected=f"type {', '.join(FORMATS)}", actual=shown(kind))
    try:
        parts = _check_schema(schema_of(form), SCHEMA_DEPTH_MAX)
    except Refused as refusal:
        raise refuse_request(f"response_format: {refusal.reason}") from None
    if parts > SCHEMA_PARTS_MAX:
        raise mismatch(Code.REQUEST_INVALID, "response_format", expected=f"a schema of at most {SCHEMA_PARTS_MAX} parts", actual=parts)
    if len(json.dumps(form)) > SCHEMA_BYTES_MAX:
        raise mismatch(Code.REQUEST_INVALID, "response_format", expected=f"at most {SCHEMA_BYTES_MAX} bytes", actual="more")


def schema_of(form: Mapping[str, Any]) -> dict[str, Any]:
    """Return the JSON schema that answers have to follow: an empty one takes any JSON.

    Raises:
        Refused: REQUEST_INVALID, there is none.
    """
    schema = form.get("schema", {})
    if form["type"] == "json_schema":
        wrapper = form.get("json_schema")
        schema = wrapper.get("schema") if isinstance(wrapper, dict) else None
    if not isinstance(schema, dict):
        raise refuse_request("expected a schema, which is an object")
    return schema


def _check_schema(value: object, depth: int) -> int:
    """Check that a schema becomes a grammar of some size; return the number of its parts."""
    if depth == 0:
        raise refuse_request(f"the schema is deeper than {SCHEMA_DEPTH_MAX}")
    if isinstance(value, dict):
        for name, inner in value.items():
            if name in REPETITIONS and not isinstance(inner, dict):
                whole(name, inner, 0, REPETITIONS_MAX)
            if name == "pattern" and not isinstance(inner, dict) and not (isinstance(inner, str) and len(inner) <= PATTERN_CHARACTERS_MAX):
                raise refuse_request(f"pattern: expected a text of at most {PATTERN_CHARACTERS_MAX} characters")
        return sum(1 + _check_schema(inner, depth - 1) for inner in value.values())
    if isinstance(value, list):
        return sum(1 + _check_schema(inner, depth - 1) for inner in value)
    return 0
