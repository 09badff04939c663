"""Name the terms of a blueprint that differ from those on which a rollout has begun: they count from the next one on."""

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from hub.core.blueprint.changes import carriage, seconds_of
from hub.core.blueprint.document import DeploymentTerms
from hub.core.rollouts.commands import NamedStage
from hub.core.rollouts.stages import built
from schemas.deployments import Deployment, Stage
from schemas.rollout import Carriage, Gate
from schemas.windows import parse_windows

if TYPE_CHECKING:
    from hub.core.blueprint.diff import WantedDeployment
    from hub.core.blueprint.present import Present

STANDARD_INPUT = "the standard input"  # The name of a blueprint that comes from there: it cannot be read twice.
DEADLINE_SECONDS = 60  # By how much a deadline may differ: it was computed when the rollout began.


def terms_apart(asked: "Mapping[str, Sequence[WantedDeployment]]", present: "Present", *, name: str) -> Iterator[str]:
    """Yield a sentence for each deployment whose rollout of this very release began on other terms than the blueprint has.

    It says what is not done, and what does it; `name` is the blueprint's, as its reader knows it.
    """
    for model, of in asked.items():
        for one in of:
            have = present.models[model].model.get(one.name)
            if have is None or one.release is None or have.deployment.release.digest != one.release.ref.digest:
                continue
            deployment = have.deployment
            if deployment.state == "rolled_back" or not (names := _differing(one.terms, deployment)):
                continue
            named = f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else names[0]
            differ = "differs" if names in (["gate"], ["deadline"]) else "differ"
            version = deployment.release.version
            if deployment.state == "done":
                yield (
                    f"deployment {one.name} of {model}: {named} {differ} from what {version} was rolled out on. Its nodes have it, so"
                    " `apply` changes nothing: this counts from its next release on"
                )
                continue
            back = present.models[model].model.command("back", one.name)
            yield (
                f"deployment {one.name} of {model}: {named} {differ} from what {version} is being rolled out on. `apply` does not change a"
                f" rollout that has begun: this counts from its next release on. To begin {version} anew on it, take {version} from the"
                f" nodes that have it, and apply once more: `{back}`, then `{_again(name)}`"
            )


def _again(name: str) -> str:
    """Return the command that begins rollouts once more from which nodes went back."""
    if (revision := re.fullmatch(r"revision (\d+)", name)) is not None:
        return f"fleetcast apply --revision {revision[1]} --again"
    return f"fleetcast apply {'FILE' if name == STANDARD_INPUT else shlex.quote(name)} --again"


def _differing(terms: DeploymentTerms, have: Deployment) -> list[str]:
    """Return the terms that are given, and differ."""
    found = []
    if terms.stages is not None and _stages(terms) != [_shown(one) for one in have.stages]:
        found.append("stages")
    if terms.gate is not None and terms.gate != (have.gate or Gate()):
        found.append("gate")
    if (terms.carriage is not None or terms.fetch is not None) and carriage(terms) != (have.carriage or Carriage()):
        found.append("how bytes travel")
    if terms.activate is not None and parse_windows(terms.activate) != have.activate:
        found.append("hours in which nodes switch")
    if terms.deadline is not None and not _is_deadline(have, seconds_of(terms.deadline)):
        found.append("deadline")
    return found


def _is_deadline(have: Deployment, seconds: int) -> bool:
    return have.deadline is not None and abs(have.deadline - have.started - seconds) <= DEADLINE_SECONDS


def _stages(terms: DeploymentTerms) -> list[object]:
    stages = terms.stages or ()
    asked = [one.percent if one.percent is not None else NamedStage(name=one.name or "", where=one.where or "") for one in stages]
    return [_shown(one) for one in built(asked, [one.percent or one.name or "" for one in stages if one.approve])]


def _shown(one: Stage) -> object:
    """Return a stage as far as it is compared: whether it waits for approval is over once somebody has approved it."""
    return one.percent, one.name, tuple(sorted(one.selector or ()))
