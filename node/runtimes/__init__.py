"""Run a model: one small protocol, and the entry points that fulfil it. A runtime itself is imported in worker processes only.

A distribution adds a runtime by an entry point of the group `fleetcast.runtimes`, named as releases name it (docs/runtimes.md).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, Protocol, runtime_checkable

from node.core.inference.tensors import Array, Spec
from schemas.errors import Code, Refused

__all__ = ["GROUP", "Chats", "Code", "Options", "Refused", "Runtime", "Signature", "Spec", "available"]  # all that a runtime needs

GROUP: Final = "fleetcast.runtimes"
NEEDS: Final = {"onnx": "onnxruntime", "llama": "xllamacpp", "litert": "ai_edge_litert"}  # what our own stand on, where it is an extra


@dataclass(frozen=True, slots=True)
class Options:
    """Describe how a model is to be loaded here. `providers`: execution providers that the variant requires, the preferred first.

    `inputs`: what the release takes, for a runtime whose files leave sizes open that have to be set before the model can run.
    """

    threads: int = 1
    providers: tuple[str, ...] = ()
    parameters: Mapping[str, Any] | None = None  # The release's that go to the runtime, as they are when it is loaded.
    inputs: tuple[Spec, ...] = ()


@dataclass(frozen=True, slots=True)
class Signature:
    """Describe what a loaded model takes and gives, in order, and the Open Inference Protocol's word for what runs it.

    `rows_apart`: each row of the first axis is answered alike whatever stands beside it, so that rows of several requests may be asked
    together. A runtime that does not know leaves it out.
    """

    inputs: tuple[Spec, ...]
    outputs: tuple[Spec, ...]
    platform: str
    rows_apart: bool = False


class Runtime(Protocol):
    """Run one model in one process. The methods are called one after the other; `load` by another thread than the rest.

    Whatever they raise that is not `Refused` is reported as a failure of the model. Standard error is the node's log.
    """

    def load(self, path: Path, options: Options) -> None:
        """Read the model; the other files of its variant stand beside it.

        Raises:
            Refused: MODEL_LOAD, or another code that says what is wrong with it.
        """

    def describe(self) -> Signature:
        """Return what was loaded."""

    def infer(self, inputs: Mapping[str, Array], parameters: Mapping[str, Any]) -> Sequence[Array]:
        """Return the outputs, in the order of the signature; `parameters` are the release's that go to the runtime.

        Raises:
            Refused: REQUEST_INVALID when the inputs do not fit, MODEL_RUN when the model fails on them.
        """

    def close(self) -> None:
        """Give back what was loaded; the process may live on."""


@runtime_checkable
class Chats(Protocol):
    """Hold conversations, too (OpenAI's chat completions)."""

    def chat(self, body: Mapping[str, Any], parameters: Mapping[str, Any], say: Callable[[Mapping[str, Any]], bool]) -> Mapping[str, Any]:
        """Return the completion; where the body asks for a stream, `say` is given each chunk first, and answers whether to go on.

        A long silence is taken for a hang: an empty chunk says that work goes on, also where no stream was asked for, and reaches nobody.

        Raises:
            Refused: REQUEST_INVALID when the body is not understood, MODEL_RUN when the model fails.
        """


def available() -> dict[str, str]:
    """Return where each runtime that is installed here is found, as `module:attribute`, by name."""
    from importlib.metadata import entry_points  # noqa: PLC0415  # a worker, which imports this module too, never asks

    found = {point.name: point.value for point in entry_points(group=GROUP)}
    return {name: value for name, value in sorted(found.items()) if name not in NEEDS or find_spec(NEEDS[name]) is not None}
