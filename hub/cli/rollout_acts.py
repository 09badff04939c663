"""`fleetcast rollout halt`, `resume`, `back`, `approve` and `retry`: what an operator asks of a rollout that is there.

A machine that is busy takes seconds to import what other commands need, and a halt does not wait for that.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hub.cli.command_queue import ask
from hub.cli.options import NOT_EMPTY, changes_fleet, dir_option, json_option
from hub.cli.remote import WAIT_SECONDS, print_operation, remote
from hub.core.rollouts import commands
from hub.signing.model_names import is_model
from schemas.deployments import DEFAULT
from schemas.errors import Code, Refused

if TYPE_CHECKING:
    from hub.client.hub_client import Action, HubClient

deployment_option = click.option("--deployment", metavar="NAME", type=NOT_EMPTY, help="Deployment, where the model has several.")


def rollout_of(hub: "HubClient", model: str, deployment: str | None, *, to_go_back: bool = False) -> Mapping[str, Any]:
    """Return the rollout that is meant.

    Raises:
        Refused: there is no such model or deployment, or it is not clear which one is meant.
    """
    rows = {str(row["deployment"]): row for row in hub.rollouts(model)}
    names = ", ".join(rows)
    if deployment is not None:
        if deployment not in rows:
            raise Refused(Code.REQUEST_UNKNOWN, f"there is no deployment {deployment} of {model}; there are {names or 'none'}")
        return rows[deployment]
    if not rows:
        raise Refused(Code.ROLLOUT_INVALID, f"there is no rollout of {model}")
    if len(rows) == 1:
        return next(iter(rows.values()))
    moving = any(row["state"] in {"running", "halted"} for name, row in rows.items() if name != DEFAULT)
    if DEFAULT not in rows or moving or to_go_back:
        raise Refused(Code.ROLLOUT_INVALID, f"{model} has several deployments ({names}): choose one with --deployment")
    return rows[DEFAULT]


def _simple(kind: "Action", asked: type[commands.OfDeployment], sentence: str) -> click.Command:
    @click.command(kind, help=f"{sentence}\n\n\b\nExample:\n  fleetcast rollout {kind} delay")
    @click.argument("model")
    @deployment_option
    @changes_fleet
    @dir_option
    @json_option
    def run(model: str, deployment: str | None, directory: Path, as_json: bool) -> None:
        if (hub := remote()) is not None:
            row = rollout_of(hub, model, deployment, to_go_back=kind == "back")
            print_operation(hub.act(kind, model, str(row["deployment"]), wait_seconds=WAIT_SECONDS), as_json=as_json)
            return
        _check(directory, model)
        command = commands.read_as(asked, json.dumps({"deployment": deployment} if deployment else {}))
        ask(directory, model, command, as_json=as_json)

    return run


def _check(directory: Path, model: str) -> None:
    """Check that the fleet has this model.

    Raises:
        Refused: it has not.
    """
    if not is_model(directory / "trust", model):
        from hub.operations.opened_fleet import check_model  # noqa: PLC0415
        from hub.signing.tuf_repository import Repository  # noqa: PLC0415  # with TUF's library

        check_model(Repository(directory / "trust"), model)


halt = _simple("halt", commands.Halt, "Halt a rollout. Nodes that have the release keep it.")
resume = _simple("resume", commands.Resume, "Resume a rollout after a halt.")
back = _simple("back", commands.Rollback, "Return each node of the rollout to its previous release.")
approve = _simple("approve", commands.Approve, "Approve the next stage. It begins when its turn has come.")
retry = _simple("retry", commands.Retry, "Let the nodes that failed try once more.")
