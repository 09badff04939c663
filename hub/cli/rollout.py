"""`fleetcast rollout`: start, follow, halt, resume, go back, approve, retry."""

import click

from fleetcast.cli.lazy_group import LazyGroup, Verb
from hub.cli.completed_names import complete_names

# Each is imported when it is called: a halt needs far less than a start.
VERBS = {
    "approve": Verb("rollout_acts:approve", "Approve the next stage."),
    "back": Verb("rollout_acts:back", "Return each node of the rollout to its previous release."),
    "halt": Verb("rollout_acts:halt", "Halt a rollout."),
    "resume": Verb("rollout_acts:resume", "Resume a rollout after a halt."),
    "retry": Verb("rollout_acts:retry", "Let the nodes that failed try once more."),
    "set": Verb("rollout_start:set_", "Change parameters of the release that is rolled out."),
    "start": Verb("rollout_start:start", "Roll a release out, in stages."),
    "status": Verb("rollout_status:status", "Show every rollout, or those of one model: a line a deployment."),
}


@click.group(cls=LazyGroup, package="hub.cli", verbs=VERBS, complete=complete_names)
def rollout() -> None:
    """Choose which nodes run which release.

    \b
    Examples:
      fleetcast rollout start delay@1.2.0 --stages 1,10,50,100 \\
        --soak-seconds 600 --wait
      fleetcast rollout start delay@1.3.0 --where site=jfk
      fleetcast rollout status
      fleetcast rollout halt delay
    """
