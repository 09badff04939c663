"""Run GGUF language models on llama.cpp, through xllamacpp (extra `llm`). Completes prompts and holds conversations."""

import secrets
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import xllamacpp

from node.core.inference.chat_request import number, schema_of, shown, whole
from node.core.inference.tensors import Array, Spec
from node.runtimes import Options, Signature
from node.runtimes.llama_prompt import Prompts
from node.runtimes.reasons import REASON_CHARACTERS_MAX, first_line
from schemas.errors import Code, Refused, mismatch

CONTEXT_TOKENS: Final = 2048  # the key-value cache grows with it; a release may set `context_tokens`
TOKENS_MAX: Final = 256  # Tokens of an answer, where neither the request nor the release says; an abandoned one ends then
TOKENS_CEILING: Final = 4096
BATCH_TOKENS: Final = 128  # Tokens of a prompt at once: after each it is reported that work goes on, and asked whether it should.
SEED_RANGE: Final = 2**32 - 1  # llama.cpp's seeds have 32 bits, and the last one means any
WHOLE_MAX: Final = 2**31 - 1
QUIET: Final = -1
SAMPLING: Final = ("temperature", "top_p", "top_k", "min_p", "seed", "repeat_penalty", "presence_penalty", "frequency_penalty", "stop")
CHAT_FIELDS: Final = {
    "messages",
    "max_tokens",
    "max_completion_tokens",
    "stream",
    "stream_options",
    "response_format",
    "model",
    "user",
}


class Llama:
    """Run one GGUF model, one conversation at a time."""

    def load(self, path: Path, options: Options) -> None:
        """Map the file into memory."""
        parameters = options.parameters or {}
        params = xllamacpp.CommonParams()
        params.model.path = str(path)
        params.n_ctx = _tokens(parameters, "context_tokens", CONTEXT_TOKENS)
        _tokens(parameters, "max_tokens", TOKENS_MAX)  # Else it is found by the first client.
        params.n_parallel = 1
        params.n_batch = params.n_ubatch = BATCH_TOKENS
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = options.threads
        params.verbosity = QUIET
        params.warmup = False  # activation warms up what it loads
        params.cache_ram_mib = 0  # else it keeps every conversation that it has seen, up to 8 GiB
        # The library listens on loopback as well, on a port of its own; nobody else learns this key.
        key = secrets.token_hex(32)
        params.api_keys = [key]
        params.ui = False
        try:
            self._server = xllamacpp.Server(params)
        except Exception as error:  # it raises whatever C++ threw
            raise Refused(Code.MODEL_LOAD, f"llama.cpp cannot load the model: {first_line(error)}") from None
        self._prompts = Prompts(self._server.listening_address, key)

    def describe(self) -> Signature:
        """Return its signature: a prompt in, a text out."""
        return Signature((Spec("prompt", "BYTES", (1,)),), (Spec("text", "BYTES", (1,)),), "llama_cpp_gguf")

    def infer(self, inputs: Mapping[str, Array], parameters: Mapping[str, Any]) -> Sequence[Array]:
        """Return the completion of one prompt: the likeliest words, unless the release's `temperature` says otherwise."""
        body = {"temperature": 0.0, **_sampling(parameters), "prompt": str(inputs["prompt"].ravel()[0]), "cache_prompt": False}
        body["n_predict"] = _tokens(parameters, "max_tokens", TOKENS_MAX)
        answer = self._asked(self._server.handle_completions, body)
        return [np.array([answer["choices"][0]["text"]], object)]

    def chat(self, body: Mapping[str, Any], parameters: Mapping[str, Any], say: Callable[[Mapping[str, Any]], bool]) -> Mapping[str, Any]:
        """Return one turn of a conversation. The release's parameters are defaults, which a request may set for itself.

        It is streamed from llama.cpp also where the client did not ask for that, so that a long silence is none, and a client's leaving is
        noticed.
        """
        asked = _checked(body, parameters)
        tokens = self._prompts.tokens_apart(body["messages"])
        streamed, whole = bool(body.get("stream")), Whole()
        wants_usage = bool((body.get("stream_options") or {}).get("include_usage"))

        def report(chunk: Mapping[str, Any]) -> bool:
            if "error" in chunk:
                whole.error = chunk["error"]
                return True
            whole.begun = True
            if "prompt_progress" in chunk:
                return not say({})
            if tokens is not None:
                chunk = _as_chat(chunk)
            whole.add(chunk)
            is_shown = streamed and (chunk["choices"] or wants_usage)
            return not say(chunk if is_shown else {})

        try:
            if tokens is None:
                self._asked(self._server.handle_chat_completions, asked, report)
            else:
                self._asked(self._server.handle_completions, _completing(asked, tokens), report)
        except Refused as refusal:
            if whole.begun:
                raise
            # The template takes plain conversations, so what llama.cpp refuses before it begins is wrong with this one.
            raise Refused(Code.REQUEST_INVALID, refusal.reason) from None
        if whole.error is not None:
            raise _refused_body(whole.error)
        return whole.completion()

    def close(self) -> None:
        """Unmap it."""
        del self._server

    def _asked(self, do: Callable[..., Any], body: Mapping[str, Any], *more: Any) -> dict[str, Any]:
        try:
            answer: dict[str, Any] = do(body, *more) or {}
        except MemoryError:
            raise
        except ValueError as error:
            raise Refused(Code.REQUEST_INVALID, f"llama.cpp: {first_line(error)}") from None
        except Exception as error:
            raise Refused(Code.MODEL_RUN, f"llama.cpp: {first_line(error)}") from None
        if "error" in answer:
            raise _refused_body(answer["error"])
        return answer


class Whole:
    """Collect the completion that a stream's chunks add up to."""

    def __init__(self) -> None:
        self.error: Any = None
        self.begun = False
        self._head: dict[str, Any] = {}
        self._texts: dict[str, str] = {"content": ""}
        self._finish_reason: str | None = None

    def add(self, chunk: Mapping[str, Any]) -> None:
        """Add one more chunk."""
        self._head.update({name: chunk[name] for name in ("id", "usage") if name in chunk})
        for choice in chunk["choices"]:
            self._finish_reason = choice.get("finish_reason") or self._finish_reason
            for name, text in choice["delta"].items():
                if name != "role" and isinstance(text, str):
                    self._texts[name] = self._texts.get(name, "") + text

    def completion(self) -> dict[str, Any]:
        """Return it as a client that wants no stream reads it."""
        choice = {"index": 0, "finish_reason": self._finish_reason, "message": {"role": "assistant", **self._texts}}
        return {**self._head, "object": "chat.completion", "choices": [choice]}


def _checked(body: Mapping[str, Any], parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return what llama.cpp is asked; `node/core/inference/chat_request.py` has parsed the body."""
    if unknown := set(body) - CHAT_FIELDS - set(SAMPLING):
        raise Refused(Code.REQUEST_INVALID, f"fields {', '.join(sorted(unknown))[:128]} are not understood here")
    limit = body.get("max_completion_tokens", body.get("max_tokens", _tokens(parameters, "max_tokens", TOKENS_MAX)))
    if not 1 <= limit <= TOKENS_CEILING:
        raise mismatch(Code.REQUEST_INVALID, "max_tokens", expected=f"1 to {TOKENS_CEILING}", actual=shown(limit))
    given = {name: body[name] for name in SAMPLING if name in body}
    if "top_k" in given:
        given["top_k"] = whole("top_k", given["top_k"], 0, WHOLE_MAX)
    if "min_p" in given:
        given["min_p"] = number("min_p", given["min_p"], 0, 1)
    if "repeat_penalty" in given:
        given["repeat_penalty"] = number("repeat_penalty", given["repeat_penalty"], 0.01, 10)
    if "seed" in given:
        given["seed"] %= SEED_RANGE
    asked = {**_sampling(parameters), **given, "messages": body["messages"]}
    if "response_format" in body:
        asked["response_format"] = body["response_format"]
    asked["cache_prompt"] = bool(parameters.get("cache_prompt", True))
    return {**asked, "max_tokens": limit, "stream": True, "stream_options": {"include_usage": True}, "return_progress": True}


def _completing(asked: Mapping[str, Any], tokens: Sequence[int]) -> dict[str, Any]:
    """Return the same question for a prompt that is rendered and tokenised already."""
    body = {name: value for name, value in asked.items() if name not in ("messages", "response_format", "max_tokens")}
    if "response_format" in asked:
        body["json_schema"] = schema_of(asked["response_format"])
    return {**body, "prompt": list(tokens), "n_predict": asked["max_tokens"]}


def _as_chat(chunk: Mapping[str, Any]) -> dict[str, Any]:
    """Return a chunk of a completion as one of a conversation."""
    choices = [
        {"index": 0, "finish_reason": one.get("finish_reason"), "delta": {"content": one["text"]} if one.get("text") else {}}
        for one in chunk["choices"]
    ]
    return {**chunk, "object": "chat.completion.chunk", "choices": choices}


def _refused_body(body: Any) -> Refused:
    message, status = (body.get("message", body), body.get("code")) if isinstance(body, dict) else (body, None)
    code = Code.MODEL_RUN if isinstance(status, int) and status >= 500 else Code.REQUEST_INVALID
    return Refused(code, f"llama.cpp: {str(message)[:REASON_CHARACTERS_MAX]}")


def _sampling(parameters: Mapping[str, Any]) -> dict[str, Any]:
    return {name: parameters[name] for name in SAMPLING if name in parameters}


def _tokens(parameters: Mapping[str, Any], name: str, otherwise: int) -> int:
    """Return how many tokens the release's parameter allows.

    Raises:
        Refused: PARAMETER_BOUNDS: it is no whole number.
    """
    value = parameters.get(name, otherwise)
    if isinstance(value, bool) or not isinstance(value, float | int) or not float(value).is_integer():
        raise mismatch(Code.PARAMETER_BOUNDS, f"the release's parameter {name!r}", expected="a whole number", actual=shown(value))
    return int(value)
