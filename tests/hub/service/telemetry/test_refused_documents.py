"""A node that refuses a document is a failure of its model's rollout, and every view says why, until it takes one again."""

import json
from typing import Any

from hub.core.rollouts import commands
from schemas.state import Finding
from tests import brokers, warm
from tests.databases import settings_of
from tests.hub.hubs import Device, Fleet, until

WHY = "release delay@1.1.0: manifest: the field explanation is not known here"


def shown(fleet: Fleet, *arguments: str) -> str:
    (fleet.directory / "fleet.toml").write_text(f'fleet = "{brokers.FLEET}"\n' + settings_of(fleet.directory / "hub.sqlite"))
    done = warm.run("fleetcast", *arguments, "--dir", fleet.directory)
    assert done.returncode == 0, done.stderr
    return done.stdout


def asked(fleet: Fleet, *arguments: str) -> Any:
    return json.loads(shown(fleet, *arguments, "--json"))


def start(fleet: Fleet, version: str) -> None:
    fleet.store.add_command("delay", commands.read("start", json.dumps({"version": version, "stages": [100]})))


def state_of(fleet: Fleet) -> str:
    return next((asked(fleet, "rollout", "status")[0]["state"] for _ in fleet.store.rollout_rows()), "")


def test_a_refusal_that_an_older_node_reported_before_the_rollout_halts_it(fleet: Fleet, embedded: brokers.Broker) -> None:
    manifest = fleet.publish("1.1.0")
    with fleet.hub(embedded):
        older = Device.connect("gate-1", embedded, fleet)
        older.sign("refused", code="schema.malformed", model="delay", reason=WHY)
        until("the receipt", fleet.store.receipts)
        start(fleet, "1.1.0")
        until("the halt", lambda: state_of(fleet) == "halted")
        row, text, nodes = asked(fleet, "rollout", "status")[0], shown(fleet, "rollout", "status"), shown(fleet, "nodes")
        older.sign("serving", manifest)  # it was upgraded
        until("its release", lambda: asked(fleet, "rollout", "status")[0]["serving"] == 1)
        after = asked(fleet, "nodes")
        older.client.link.close()

    assert (row["failed"], row["refused"]) == (1, [{"node": "gate-1", "code": "schema.malformed", "reason": WHY}])
    assert f"delay: gate-1 cannot take it: {WHY} [schema.malformed]" in text
    assert f"gate-1 refuses the model bundle of delay: {WHY} [schema.malformed]" in nodes
    assert after[0]["findings"] == []


def test_a_nodes_own_findings_are_shown_and_count_until_it_takes_them_back(fleet: Fleet, embedded: brokers.Broker) -> None:
    fleet.publish("1.1.0")
    refused = Finding(kind="rollout", model="delay", code="schema.unsupported", reason="the sender wrote rollout/2")
    site = Finding(kind="site", code="settings.invalid", reason="link_file says 'Metred'")
    with fleet.hub(embedded):
        nodes = [Device.connect(f"gate-{number}", embedded, fleet) for number in range(2)]
        nodes[0].say_state(software="fleetcast 0.1.0+gaaaaaaaaa", findings=(refused, site))
        nodes[1].say_state(software="fleetcast 0.1.0+gbbbbbbbbb", findings=())
        until("both", lambda: [len(one["findings"]) for one in asked(fleet, "nodes")] == [2, 0])
        text, one = shown(fleet, "nodes"), shown(fleet, "nodes", "gate-0")
        start(fleet, "1.1.0")
        until("the halt", lambda: state_of(fleet) == "halted")
        nodes[0].say_state(findings=())
        until("no finding", lambda: asked(fleet, "nodes")[0]["findings"] == [])
        after = asked(fleet, "rollout", "status")[0]
        for node in nodes:
            node.client.link.close()

    assert "gate-0 refuses the rollout of delay: the sender wrote rollout/2 [schema.unsupported]" in text
    assert "gate-0: link_file says 'Metred' [settings.invalid]" in text
    assert "Nodes run 2 builds: fleetcast 0.1.0+gaaaaaaaaa on 1 (gate-0), fleetcast 0.1.0+gbbbbbbbbb on 1 (gate-1)" in text
    assert "refuses the rollout of delay" in one
    assert after["refused"] == []


def test_refusals_of_older_nodes_are_known_after_a_restart_of_the_hub(fleet: Fleet, embedded: brokers.Broker) -> None:
    fleet.publish("1.1.0")
    with fleet.hub(embedded):
        older = Device.connect("gate-1", embedded, fleet)
        older.sign("refused", code="schema.malformed", model="delay", reason=WHY)
        until("the receipt", fleet.store.receipts)
        older.client.link.close()
    (fleet.directory / "hub.ready").unlink(missing_ok=True)
    with fleet.hub(embedded) as service:
        found = service._ingest.nodes["gate-1"].refused

    assert [one.finding.code for one in found.values()] == ["schema.malformed"]
