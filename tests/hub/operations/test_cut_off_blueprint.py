"""A blueprint whose apply was cut off: what the hub makes of its queue afterwards is counted."""

from pathlib import Path

from hub.core.rollouts import commands
from hub.database.blueprint_rows import Blueprints
from hub.database.connection import HUB_ACTOR
from hub.operations.blueprint import revision_rows
from hub.operations.opened_fleet import OpenedFleet
from hub.settings import HubSettings
from tests.hub.service.rollouts.test_deployments import Hub

TEXT = """\
blueprint: 1
models:
  delay:
    deployments:
      hold: {where: node=n3, priority: 100, release: 1.1.0, pin: true}
      default: {release: 1.0.0, pin: true}
"""


def test_what_was_queued_as_an_apply_was_cut_off_is_counted_when_it_is_made(tmp_path: Path) -> None:
    hub = Hub(tmp_path / "fleet")
    hub.begin()
    fleet = OpenedFleet(hub.fleet.directory, HubSettings(fleet="plant"), hub.store, hub.fleet.repository)
    hub.store.database.actor = "ada"
    revision = Blueprints(hub.store.database).begin(TEXT, left=2, same_as=None)
    hub.ask("deploy_set", name="default", release="1.0.0")
    Blueprints(hub.store.database).count(revision.revision, 1)
    hub.store.database.actor = "ada"
    hold = commands.SetDeployment(name="hold", where="node=n3", priority=100, release="1.1.0")
    hub.store.add_command("delay", hold)
    queued = revision_rows(fleet, 1)[0]
    hub.store.database.actor = HUB_ACTOR
    hub.passes()
    made = revision_rows(fleet, 1)[0]

    assert [(row["state"], row["changes"]) for row in (queued, made)] == [("cut off", "1 of 2, 1 queued"), ("cut off", "2 of 2")]
