"""The processes of deploy/compose.roles.yaml, started by the very command lines of that file, are a whole hub."""

import json
from pathlib import Path

import httpx
import pytest

from hub.core.rollouts import commands
from tests import warm
from tests.brokers import Broker
from tests.databases import needs_postgresql
from tests.hub.apart import SharedFleet
from tests.hub.hubs import BLOCKS, Device, deployment_of, until
from tests.test_containers import ROLES_FILE, services

pytestmark = [needs_postgresql, pytest.mark.postgres]


def test_the_processes_of_the_compose_file_roll_a_release_out(tmp_path: Path, mosquitto: Broker) -> None:
    shared = SharedFleet.make(tmp_path / "fleet", mosquitto, web_listen="127.0.0.1:0")
    manifest, running = shared.publish("1.0.0"), []
    try:
        for service in services(ROLES_FILE).values():
            words = [str(word) for word in service.get("command", [])]
            if words[:2] == ["hub", "/data/main"]:
                secret = str(shared.directory / "passphrase")
                running.append(shared.start(shared.directory, *[secret if one.startswith("/run/secrets/") else one for one in words[2:]]))
        listed = until(
            "all of them",
            lambda: found if (found := warm.run("fleetcast", "hubs", "--dir", shared.directory, "--json")).returncode == 0 else None,
        )
        device = Device.connect("n1", mosquitto, shared)
        until("the node", lambda: shared.store.node("n1"))
        shared.store.add_command("delay", commands.read("start", json.dumps({"version": "1.0.0", "stages": [100]})))
        assert len(device.fetch(manifest)) == BLOCKS
        device.sign("serving", manifest)
        until("the end", lambda: [row for row in shared.store.rollout_rows() if deployment_of(row).state == "done"])
        url = until("the console", lambda: json.loads((shared.directory / "web.ready").read_text())["web_url"])
        assert httpx.get(f"{url}/login").status_code == 200
    finally:
        codes = [one.end() for one in running]

    names = {row["name"]: row["roles"] for row in json.loads(listed.stdout)}
    assert {"receiver-1", "receiver-2", "leader", "blocks", "web"} <= names.keys()
    assert codes == [0] * len(running) == [0] * 5
