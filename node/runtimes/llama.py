"""llama.cpp, through xllamacpp (extra `llm`): GGUF language models. Takes a prompt and gives its completion, and holds conversations."""

import math
import secrets
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import xllamacpp

from node.core.tensors import Array, Spec
from node.runtimes import Options, Signature
from schemas.errors import Code, Refused
from schemas.parameters import Value

CONTEXT_TOKENS: Final = 2048  # the key-value cache grows with it; a release may set `context_tokens`
TOKENS_MAX: Final = 256  # of an answer, where neither the request nor the release says; an abandoned one ends then
TOKENS_CEILING: Final = 4096
REASON_CHARACTERS_MAX: Final = 300
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
    "n",
}


class Llama:
    """One GGUF model, one conversation at a time."""

    def load(self, path: Path, options: Options) -> None:
        """Map the file into memory."""
        said = options.parameters or {}
        params = xllamacpp.CommonParams()
        params.model.path = str(path)
        params.n_ctx = int(_number(said, "context_tokens", CONTEXT_TOKENS))
        params.n_parallel = 1
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = options.threads
        params.verbosity = QUIET
        params.warmup = False  # activation warms up what it loads
        # The library listens on loopback as well, on a port of its own; nobody is told this key.
        params.api_keys = [secrets.token_hex(32)]
        params.ui = False
        try:
            self._server = xllamacpp.Server(params)
        except Exception as error:  # it raises whatever C++ threw
            raise Refused(Code.MODEL_LOAD, f"llama.cpp cannot load the model: {_line(error)}") from None

    def describe(self) -> Signature:
        """A prompt in, a text out."""
        return Signature((Spec("prompt", "BYTES", (1,)),), (Spec("text", "BYTES", (1,)),), "llama_cpp_gguf")

    def infer(self, inputs: Mapping[str, Array], parameters: Mapping[str, Value]) -> Sequence[Array]:
        """The completion of one prompt: the likeliest words, unless the release's `temperature` says otherwise."""
        body = {"temperature": 0.0, **_sampling(parameters), "prompt": str(inputs["prompt"].ravel()[0]), "cache_prompt": False}
        body["n_predict"] = int(_number(parameters, "max_tokens", TOKENS_MAX))
        answer = self._asked(self._server.handle_completions, body)
        return [np.array([answer["choices"][0]["text"]], object)]

    def chat(self, body: Mapping[str, Any], parameters: Mapping[str, Value], say: Callable[[Mapping[str, Any]], bool]) -> Mapping[str, Any]:
        """One turn of a conversation. The release's parameters are defaults, which a request may set for itself."""
        if unknown := set(body) - CHAT_FIELDS - set(SAMPLING):
            raise Refused(Code.REQUEST_INVALID, f"fields {', '.join(sorted(unknown))[:128]} are not understood here")
        asked = {**_sampling(parameters), **{name: body[name] for name in body if name in SAMPLING}, "messages": body.get("messages")}
        limit = body.get("max_completion_tokens") or body.get("max_tokens") or _number(parameters, "max_tokens", TOKENS_MAX)
        if type(limit) not in (int, float) or not 1 <= limit <= TOKENS_CEILING:
            raise Refused(Code.REQUEST_INVALID, f"max_tokens: expected 1 to {TOKENS_CEILING}, found {str(limit)[:64]}")
        asked |= {name: body[name] for name in ("response_format", "stream_options") if name in body}
        asked["max_tokens"] = int(limit)
        if body.get("stream"):
            self._asked(self._server.handle_chat_completions, {**asked, "stream": True}, lambda chunk: not say(chunk))
            return {}
        return self._asked(self._server.handle_chat_completions, asked)

    def close(self) -> None:
        """Unmap it."""
        del self._server

    def _asked(self, do: Callable[..., Any], body: Mapping[str, Any], *more: Any) -> dict[str, Any]:
        try:
            answer: dict[str, Any] = do(body, *more) or {}
        except ValueError as error:
            raise Refused(Code.REQUEST_INVALID, f"llama.cpp: {_line(error)}") from None
        except Exception as error:
            raise Refused(Code.MODEL_RUN, f"llama.cpp: {_line(error)}") from None
        if "error" in answer:
            raise Refused(Code.REQUEST_INVALID, f"llama.cpp: {str(answer['error'])[:REASON_CHARACTERS_MAX]}")
        return answer


def _sampling(parameters: Mapping[str, Value]) -> dict[str, Any]:
    return {name: parameters[name] for name in SAMPLING if name in parameters}


def _number(parameters: Mapping[str, Value], name: str, otherwise: float) -> float:
    value = parameters.get(name, otherwise)
    return float(value) if isinstance(value, float | int) and math.isfinite(value) else otherwise


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:REASON_CHARACTERS_MAX]
