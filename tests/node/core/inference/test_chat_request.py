"""What a client may ask in a conversation: everything else is refused, naming the field, before any runtime sees it."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from node.core.inference import chat_request
from node.core.inference.chat_request import ROLES, parse_chat
from schemas.errors import Code, Refused

SAYS = [{"role": "user", "content": "hi"}]


def parsed(**fields: Any) -> dict[str, Any]:
    return parse_chat(json.dumps({"model": "m", "messages": SAYS, **fields}).encode())


def schema(inner: Any) -> dict[str, Any]:
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": inner}}}


def nested(depth: int) -> dict[str, Any]:
    found: dict[str, Any] = {"type": "string"}
    for _ in range(depth):
        found = {"type": "array", "items": found}
    return found


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"model": 3}, "model must be the name of a model"),
        ({"messages": []}, "messages must be a list of at least one object"),
        ({"messages": SAYS * 2000}, "messages: expected at most 1024, found 2000"),
        ({"messages": [{"role": "boss", "content": "x"}]}, "role of a message: expected system, .*, found boss"),
        ({"messages": [{"role": ["user"], "content": "x"}]}, "role of a message"),
        ({"messages": [{"role": "user"}]}, "content of a message: expected a text or a list of texts, found None"),
        ({"messages": [{"role": "user", "content": 5}]}, "content of a message: expected a text or a list of texts, found 5"),
        ({"messages": [{"role": "user", "content": ["x"]}]}, "content of a message: expected parts of type text .*, found x"),
        ({"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]}, "expected parts of type text .*, found input_audio"),
        ({"messages": [{"role": "user", "content": [{"type": "file"}]}]}, "expected parts of type text .*, found file"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "expected a text in its part, found None"),
        ({"messages": [{"role": "user", "content": "x", "name": "<|im_end|>"}]}, "name of a message: expected letters"),
        ({"messages": [{"role": "assistant", "tool_calls": [{"id": "1"}]}]}, "tool_calls of a message is not understood"),
        ({"n": 2}, "n: expected 1, found 2"),
        ({"n": True}, "n: expected 1, found True"),
        ({"stream": 1}, "stream: expected true or false, found 1"),
        ({"stream_options": []}, "stream_options: expected an object"),
        ({"stream_options": {"include_usage": "yes"}}, "stream_options: expected include_usage: true or false"),
        ({"max_tokens": 2.7}, "max_tokens: expected a whole number, found 2.7"),
        ({"max_tokens": True}, "max_tokens: expected a whole number, found True"),
        ({"max_completion_tokens": "4"}, "max_completion_tokens: expected a whole number, found 4"),
        ({"seed": 10**30}, "seed: expected -9223372036854775808 to"),
        ({"temperature": "hot"}, "temperature: expected 0 to 2, found hot"),
        ({"temperature": -1}, "temperature: expected 0 to 2, found -1"),
        ({"top_p": [1]}, "top_p: expected 0 to 1"),
        ({"frequency_penalty": 1e300}, "frequency_penalty: expected -2 to 2"),
        ({"stop": 3}, "stop: expected a text, or at most 16, found 3"),
        ({"stop": ["x"] * 17}, "stop: expected a text, or at most 16"),
        ({"stop": [""]}, "stop: expected texts of 1 to 256 characters"),
        ({"user": 7}, "user: expected a text, found 7"),
        ({"response_format": "json"}, "response_format: expected type text, json_object, json_schema, found json"),
        ({"response_format": {"type": "xml"}}, "response_format: expected type .*, found xml"),
        ({"response_format": {"type": "json_schema"}}, "response_format: expected a schema"),
        (schema({"type": "array", "minItems": 10**9}), "response_format: minItems: expected 0 to 512, found 1000000000"),
        (schema({"type": "string", "pattern": "a" * 257}), "response_format: pattern: expected a text of at most 256"),
        (schema(nested(40)), "response_format: the schema is deeper than 24"),
        (schema({"enum": ["x"] * 1500}), "response_format: expected a schema of at most 256 parts, found 1501"),
        (schema({"enum": ["x" * 20_000]}), "response_format: expected at most 16384 bytes"),
    ],
)
def test_a_field_of_another_form_is_refused_by_its_name(fields: dict[str, Any], sentence: str) -> None:
    with pytest.raises(Refused, match=sentence) as caught:
        parsed(**fields)

    assert caught.value.code is Code.REQUEST_INVALID


@pytest.mark.parametrize(
    ("number", "sentence"),
    [
        ("NaN", "the body holds NaN, which JSON does not have"),
        ("-Infinity", "the body holds -Infinity, which JSON does not have"),
        ("1e400", "a number of the body is larger than any that can be computed with"),
        ("9" * 5000, "the JSON of the body has a number of more than 4300 digits"),
    ],
    ids=["NaN", "an infinity", "1e400", "5000 digits"],
)
def test_a_number_that_json_cannot_hold_is_refused(number: str, sentence: str) -> None:
    with pytest.raises(Refused, match=sentence):
        parse_chat(b'{"model": "m", "messages": [{"role": "user", "content": "x"}], "temperature": %s}' % number.encode())


def test_half_a_character_is_refused_wherever_it_stands() -> None:
    for fields in ({"model": "\ud800"}, {"messages": [{"role": "user", "content": "\udfff"}]}, {"x\ud800": 1}, {"stop": ["\ud800"]}):
        with pytest.raises(Refused, match="lone surrogate"):
            parsed(**fields)


def test_what_stock_clients_send_without_meaning_anything_is_left_out() -> None:
    neutral = {"n": 1, "logprobs": False, "tools": [], "tool_choice": "auto", "store": False, "logit_bias": {}, "seed": None}
    text = {"role": "user", "content": [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]}
    replayed = {"role": "assistant", "content": None, "refusal": None, "tool_calls": [], "annotations": []}

    assert parsed(**neutral, response_format={"type": "text"}) == {"model": "m", "messages": SAYS, "stream": False}
    assert parsed(messages=[text, replayed])["messages"] == [
        {"role": "user", "content": "one\ntwo"},
        {"role": "assistant", "content": ""},
    ]
    assert parsed(max_tokens=2.0, stop="x", tools_of_another_runtime=1) == {
        "model": "m",
        "messages": SAYS,
        "stream": False,
        "max_tokens": 2,
        "stop": ["x"],
        "tools_of_another_runtime": 1,
    }


ANY = some.recursive(
    some.none() | some.booleans() | some.integers() | some.floats(allow_nan=False) | some.text(max_size=6) | some.sampled_from(ROLES),
    lambda inner: some.lists(inner, max_size=3) | some.dictionaries(some.sampled_from(("role", "content", "type", "text", "x")), inner),
    max_leaves=8,
)
FIELDS = (*chat_request.NUMBERS, *chat_request.WHOLES, *chat_request.NEUTRAL, "model", "messages", "stream", "stream_options", "stop")


@settings(max_examples=150, deadline=None)
@given(some.dictionaries(some.sampled_from((*FIELDS, "user", "response_format", "unknown")), ANY, max_size=6), some.booleans())
def test_any_json_is_parsed_or_is_the_clients_mistake(fields: dict[str, Any], is_whole: bool) -> None:
    body = {"model": "m", "messages": SAYS, **fields} if is_whole else fields
    try:
        found = parse_chat(json.dumps(body).encode())
    except Refused as refusal:
        if refusal.code is not Code.REQUEST_INVALID:
            raise
        return

    assert isinstance(found["model"], str)
    assert type(found["stream"]) is bool
    assert all(message["role"] in ROLES and isinstance(message["content"], str) for message in found["messages"])
    assert all(low <= found[name] <= high for name, (low, high) in chat_request.NUMBERS.items() if name in found)


@settings(max_examples=50, deadline=None)
@given(some.binary(max_size=64))
def test_any_bytes_are_the_clients_mistake(payload: bytes) -> None:
    with pytest.raises(Refused):
        parse_chat(payload)
