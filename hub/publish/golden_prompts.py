"""Read golden prompts of a language model: the questions that a device asks it before it serves, and how each answer should begin."""

import json
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field, ValidationError

from fleetcast.toml_text import parse_toml
from hub.core.publish import release as core
from hub.publish.publish_request import GoldenTerms
from schemas.document import Fact
from schemas.errors import Code, Refused, mismatch
from schemas.limits import MIB
from schemas.manifest import Tensor

SUFFIXES = {".toml", ".json"}
BYTES_MAX = MIB  # A few prompts take a few kilobytes, and every node fetches them.
TEXT_CHARACTERS_MAX = 64 * 1024


class Prompt(Fact):
    """Hold one question; without an answer, the model's own answer becomes the expected one."""

    prompt: Annotated[str, Field(min_length=1, max_length=TEXT_CHARACTERS_MAX)]
    answer: Annotated[str, Field(max_length=TEXT_CHARACTERS_MAX)] | None = None


class Prompts(Fact):
    """Parse the file: `[[prompts]]` in TOML, `{"prompts": [...]}` in JSON; `text_agreement_min`: share of leading words that agree."""

    prompts: Annotated[tuple[Prompt, ...], Field(min_length=1, max_length=64)]
    text_agreement_min: Annotated[float, Field(gt=0, le=1)] | None = None


def read_prompts(path: Path, inputs: tuple[Tensor, ...], outputs: tuple[Tensor, ...]) -> tuple[core.Golden, GoldenTerms]:
    """Return the prompts as golden arrays, without outputs if no answers are given.

    Raises:
        Refused: GOLDEN_INVALID: no such file, not this form, a model that does not map one text to one text, or answers to only some
        prompts.
    """
    prompts_file = _parsed(path)
    if [one.datatype for one in inputs] != ["BYTES"] or [one.datatype for one in outputs] != ["BYTES"]:
        takes = [f"{one.name} {one.datatype}" for one in (*inputs, *outputs)]
        raise mismatch(Code.GOLDEN_INVALID, f"{path}: prompts are for a model", expected="of one text in and one out", actual=takes)
    answers = [one.answer for one in prompts_file.prompts if one.answer is not None]
    if answers and len(answers) != len(prompts_file.prompts):
        expected = f"one for each of {len(prompts_file.prompts)} prompts, or none at all"
        raise mismatch(Code.GOLDEN_INVALID, f"{path}: answers", expected=expected, actual=len(answers))
    for tensor in (*inputs, *outputs):
        # A device sends all prompts at once, or one after the other if the model takes one at a time.
        if len(tensor.shape) != 1 or tensor.shape[0] not in (-1, 1, len(prompts_file.prompts)):
            expected = f"as many as {tensor.name!r} holds, {list(tensor.shape)}"
            raise mismatch(Code.GOLDEN_INVALID, f"{path}: prompts", expected=expected, actual=len(prompts_file.prompts))
    asked = {inputs[0].name: np.array([one.prompt for one in prompts_file.prompts], object)}
    known = {outputs[0].name: np.array(answers, object)} if answers else {}
    return core.Golden(asked, known), GoldenTerms(text_agreement_min=prompts_file.text_agreement_min)


def _parsed(path: Path) -> Prompts:
    try:
        with path.open("rb") as file:
            data = file.read(BYTES_MAX + 1)
        if len(data) > BYTES_MAX:
            raise mismatch(Code.GOLDEN_INVALID, f"{path}: size", expected=f"at most {BYTES_MAX} bytes", actual="more")
        prompts_file: Any = json.loads(data) if path.suffix.lower() == ".json" else parse_toml(data)
        return Prompts.model_validate_json(json.dumps(prompts_file, default=str), strict=True)
    except OSError as error:
        raise Refused(Code.GOLDEN_INVALID, f"{path} cannot be read: {error.strerror}") from None
    except ValidationError as error:
        raise core.invalid(Code.GOLDEN_INVALID, str(path), error) from None
    except (ValueError, RecursionError) as error:
        raise Refused(Code.GOLDEN_INVALID, f"{path} cannot be read as {path.suffix[1:].upper()}: {core.first_line(error)}") from None
