"""Reads what operators ask of a rollout, from the kind and the JSON that are queued, into a closed union of frozen commands."""

from typing import Annotated, TypeVar

from pydantic import Field, ValidationError

from schemas.document import Fact
from schemas.errors import Code, Refused
from schemas.limits import LABELS_MAX, PARAMETERS_MAX, STAGES_MAX
from schemas.names import Label, Version
from schemas.parameters import Value
from schemas.rollout import Carriage, Gate


class Start(Fact):
    """Begin a rollout of a release."""

    version: Version
    stages: Annotated[tuple[Annotated[int, Field(ge=1, le=100)], ...], Field(min_length=1, max_length=STAGES_MAX)] = (100,)
    labels: Annotated[dict[Label, Label], Field(max_length=LABELS_MAX, default_factory=dict)]
    gate: Gate = Gate()
    carriage: Carriage | None = None
    parameters: Annotated[dict[Label, Value], Field(max_length=PARAMETERS_MAX)] | None = None  # for a map, the entries that differ suffice
    force: bool = False  # begin although `objections` has any
    breaking: bool = False  # begin although programs that use what it replaces would not work with it


class Halt(Fact):
    """Move no more nodes."""


class Resume(Fact):
    """Go on after a halt."""


class Rollback(Fact):
    """Send each node back to its own fallback."""


class SetParameters(Fact):
    """Change what is in force of the rollout's release; `unset` names what is to be the release's own again."""

    version: Version  # the release that these are the parameters of: another rollout may have begun meanwhile
    parameters: Annotated[dict[Label, Value], Field(max_length=PARAMETERS_MAX, default_factory=dict)]
    unset: Annotated[tuple[Label, ...], Field(max_length=PARAMETERS_MAX)] = ()


Command = Start | Halt | Resume | Rollback | SetParameters
KINDS: dict[str, type[Command]] = {"start": Start, "halt": Halt, "resume": Resume, "rollback": Rollback, "set": SetParameters}
Body = TypeVar("Body", bound=Fact)
_NAMES = {kind: name for name, kind in KINDS.items()}


def kind_of(command: Command) -> str:
    """Return the word for a command's kind in the queue."""
    return _NAMES[type(command)]


def body_of(command: Command) -> str:
    """Return a command's body in the queue: only what was given, for a hub of an earlier version refuses fields that it does not know."""
    return command.model_dump_json(exclude_unset=True)


def read(kind: str, body: str) -> Command:
    """Read a command as it is queued.

    Raises:
        Refused: ROLLOUT_INVALID: there is no such kind, or a field of the body is wrong, which is named.
    """
    if kind not in KINDS:
        raise Refused(Code.ROLLOUT_INVALID, f"command {kind!r} is none of {', '.join(KINDS)}")
    command = KINDS[kind]
    return read_as(command, body if command.model_fields else "{}")  # the body of the others was never looked at


def read_as(kind: type[Body], body: str) -> Body:
    """Read the body of a command of a known kind.

    Raises:
        Refused: ROLLOUT_INVALID, naming the field.
    """
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise Refused(Code.ROLLOUT_INVALID, f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None
