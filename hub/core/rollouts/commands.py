"""Reads what operators ask of a rollout, from the kind and the JSON that are queued, into a closed union of frozen commands."""

from typing import Annotated, TypeVar

from pydantic import Field, ValidationError

from schemas.deployments import PRIORITY_MAX
from schemas.document import Fact
from schemas.errors import Code, Refused
from schemas.limits import LABELS_MAX, PARAMETERS_MAX, STAGES_MAX
from schemas.names import Label, ModelName, Version
from schemas.parameters import Value
from schemas.patterns import reason_of
from schemas.quantities import Seconds
from schemas.rollout import Carriage, Gate
from schemas.windows import Windows

Percent = Annotated[int, Field(ge=1, le=100)]
WHY_CHARACTERS_MAX = 500
SelectorText = str  # As `schemas.selectors.parse` takes it, which bounds its length and says how to do without.


class _Asked(Fact):
    """Ask something of a model's deployments."""

    # Serial of the signed statement that the asker has seen: where another one is signed by now, nothing is done.
    if_serial: Annotated[int, Field(ge=0)] | None = None
    why: Annotated[str, Field(max_length=WHY_CHARACTERS_MAX)] | None = None  # The asker's reason, kept with what is done.


class NamedStage(Fact):
    """Ask for a stage that adds the nodes that a selector matches."""

    name: Label
    where: SelectorText


class Start(_Asked):
    """Begin a rollout of a release, in a deployment that there is or in a new one. Without a name or selector it is the default one."""

    version: Version
    deployment: ModelName | None = None
    where: SelectorText | None = None
    priority: Annotated[int, Field(ge=0, le=PRIORITY_MAX)] | None = None  # That of a deployment that it makes.
    labels: Annotated[dict[Label, Label], Field(max_length=LABELS_MAX, default_factory=dict)]  # Required besides `where`.
    stages: Annotated[tuple[Percent | NamedStage, ...], Field(min_length=1, max_length=STAGES_MAX)] = (100,)
    # Stages that do not begin before `Approve`, by their percentage or name.
    approve: Annotated[tuple[Percent | Label, ...], Field(max_length=STAGES_MAX)] = ()
    gate: Gate = Gate()
    carriage: Carriage | None = None
    activate: Windows | None = None  # When nodes that serve a release may switch, each in its own zone.
    deadline: Seconds | None = None  # Nodes that do not serve the release by then are moved no more.
    parameters: Annotated[dict[Label, Value], Field(max_length=PARAMETERS_MAX)] | None = None  # For a map, the entries that differ suffice.
    allow_empty: bool = False  # Begin although the selector matches no known node.
    supersede: bool = False  # Begin although another rollout of the deployment is left half-way.
    breaking: bool = False  # Begin although programs that use what it replaces would not work with it.
    force: bool = False  # Both, as commands of earlier versions have it.

    @property
    def may_be_empty(self) -> bool:
        """Return whether the selector may match nobody."""
        return self.allow_empty or self.force

    @property
    def may_supersede(self) -> bool:
        """Return whether a running rollout may be left half-way."""
        return self.supersede or self.force


class Halt(_Asked):
    """Move no more nodes."""

    deployment: ModelName | None = None


class Resume(_Asked):
    """Go on after a halt."""

    deployment: ModelName | None = None


class Rollback(_Asked):
    """Send each node back to what it served before."""

    deployment: ModelName | None = None


class Approve(_Asked):
    """Let the next stage begin when its turn has come."""

    deployment: ModelName | None = None


class Retry(_Asked):
    """Let the nodes that failed try once more."""

    deployment: ModelName | None = None


class SetParameters(_Asked):
    """Change what is in force of the rollout's release; `unset` names what is to be the release's own again."""

    version: Version  # The release that these are the parameters of: another rollout may have begun meanwhile.
    deployment: ModelName | None = None
    parameters: Annotated[dict[Label, Value], Field(max_length=PARAMETERS_MAX, default_factory=dict)]
    unset: Annotated[tuple[Label, ...], Field(max_length=PARAMETERS_MAX)] = ()


class SetDeployment(_Asked):
    """Make a deployment, or change it; `release` pins it: its nodes run that release from now on, without stages or gate."""

    name: ModelName
    where: SelectorText | None = None  # None: as it is.
    priority: Annotated[int, Field(ge=0, le=PRIORITY_MAX)] | None = None  # None: as it is.
    release: Version | None = None
    allow_empty: bool = False
    breaking: bool = False  # Pin although programs that use what the nodes have now would not work with it.
    supersede: bool = False  # Pin although a rollout of the deployment is left half-way.


class RemoveDeployment(_Asked):
    """Take a deployment away: its nodes follow the next one that matches them."""

    name: ModelName
    breaking: bool = False  # Take it away although programs that use what its nodes have now would not work with what they then get.
    supersede: bool = False  # Take it away although its rollout is left half-way.


OfDeployment = Halt | Resume | Rollback | Approve | Retry | SetParameters
Command = Start | OfDeployment | SetDeployment | RemoveDeployment
KINDS: dict[str, type[Command]] = {
    "start": Start,
    "halt": Halt,
    "resume": Resume,
    "rollback": Rollback,
    "set": SetParameters,
    "approve": Approve,
    "retry": Retry,
    "deploy_set": SetDeployment,
    "deploy_remove": RemoveDeployment,
}
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
    return read_as(KINDS[kind], body)


def read_as(kind: type[Body], body: str) -> Body:
    """Read the body of a command of a known kind.

    Raises:
        Refused: ROLLOUT_INVALID, naming the field.
    """
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise Refused(Code.ROLLOUT_INVALID, f"{'.'.join(map(str, first['loc']))}: {reason_of(first)}") from None


def stale(what: str, *, seen: int, now: int) -> Refused:
    """Return the refusal of a change to what has changed since its asker looked; both sides are named."""
    return Refused(Code.REQUEST_STALE, f"the {what} have serial {now} now, and you saw {seen}: look again, and ask again if it still holds")
