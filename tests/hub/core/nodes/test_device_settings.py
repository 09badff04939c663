"""What the hub sets of a node after a command, what may be asked, and which deployments decide afterwards."""

import json
from typing import Any

import pytest

from hub.core.nodes.device_settings import Chosen, SetNodeSettings, document_of, labels_after, merged, moves, read, serial_after
from schemas.deployments import Deployment, in_order
from schemas.device_settings import DeviceSettings, LinkBudget
from schemas.errors import Code, Refused
from schemas.rollout import ReleaseRef
from schemas.selectors import NodeFacts, parse
from schemas.state import Profile, SettingsInForce, State

NOTHING = Chosen.of(None)


def wish(**fields: Any) -> SetNodeSettings:
    return read(json.dumps({"node": "gate-17", **fields}))


def state(*, serial: int | None = None, ignored: tuple[str, ...] = (), **labels: str) -> State:
    settings = SettingsInForce(serial=serial, ignored=ignored) if serial is not None else None
    profile = Profile(arch="x86_64", cores=1, memory_bytes=1, labels=labels)
    return State(node="gate-17", session=1, status="online", at=1, profile=profile, settings=settings)


def test_a_command_changes_what_it_names_and_nothing_else() -> None:
    first = merged(NOTHING, wish(labels={"ring": "canary", "zone": "a"}, cohort="nyc", budgets={"metered": {"hours": "22:00-05:00"}}))
    second = merged(first, wish(labels={"ring": "main"}, telemetry=False, budgets={"metered": {"bytes_day_max": 5}}))

    assert second.labels == {"ring": "main", "zone": "a"}
    assert (second.cohort, second.telemetry) == ("nyc", False)
    assert second.budgets == {"metered": LinkBudget(hours="22:00-05:00", bytes_day_max=5)}


@pytest.mark.parametrize(
    ("unset", "expected"),
    [
        (["label.ring"], {"labels": {"zone": "a"}}),
        (["labels"], {"labels": {}}),
        (["cohort"], {"cohort": None}),
        (["budget.metered.hours"], {"budgets": {"metered": LinkBudget(bytes_day_max=5)}}),
        (["budget.metered"], {"budgets": {}}),
        (["budgets"], {"budgets": {}}),
        (["label.unknown"], {}),
    ],
)
def test_what_is_taken_back_is_set_no_more(unset: list[str], expected: dict[str, Any]) -> None:
    before = merged(
        NOTHING,
        wish(labels={"ring": "x", "zone": "a"}, cohort="nyc", budgets={"metered": {"hours": "22:00-05:00", "bytes_day_max": 5}}),
    )

    after = merged(before, wish(unset=unset))

    found = {name: getattr(after, name) for name in ("labels", "cohort", "budgets")}
    assert found == {"labels": before.labels, "cohort": "nyc", "budgets": before.budgets} | expected


def test_a_label_that_is_replaced_in_one_command_is_set() -> None:
    before = merged(NOTHING, wish(labels={"ring": "x"}))

    assert merged(before, wish(unset=["labels"], labels={"ring": "y"})).labels == {"ring": "y"}


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"node": "a", "where": "site=jfk"}, "either"),
        ({}, "either"),
        ({"node": "../x"}, "node"),
        ({"node": "a", "labels": {"a b": "x"}}, "labels"),
        ({"node": "a", "labels": {"node": "b"}}, "node"),
        ({"node": "a", "budgets": {"wifi": {"hours": "22:00-05:00"}}}, "wifi"),
        ({"node": "a", "budgets": {"free": {"hours": "25:00-05:00"}}}, "budgets.free.hours"),
        ({"node": "a", "budgets": {"free": {"bytes_day_max": -1}}}, "bytes_day_max"),
        ({"node": "a", "display_name": "x" * 65}, "display_name"),
        ({"node": "a", "display_name": "red\x1b[31m"}, "printable"),
        ({"node": "a", "cohort": "Not A Name"}, "cohort"),
        ({"node": "a", "unset": ["everything"]}, "everything"),
        ({"node": "a", "unset": ["budget.wifi"]}, "wifi"),
        ({"where": "x" * 10_000}, "where"),
        ({"node": "a", "expires": 3}, "expires"),
    ],
)
def test_a_command_that_makes_no_sense_is_refused_by_name(fields: dict[str, Any], named: str) -> None:
    with pytest.raises(Refused) as refused:
        read(json.dumps(fields))

    assert refused.value.code is Code.SETTINGS_INVALID
    assert named in refused.value.reason


def test_more_labels_than_a_node_may_have_are_refused() -> None:
    before = merged(NOTHING, wish(labels={f"a{number}": "x" for number in range(32)}))

    with pytest.raises(Refused) as refused:
        merged(before, wish(labels={f"b{number}": "x" for number in range(32)}))

    assert refused.value.code is Code.SETTINGS_INVALID


def test_the_serial_rises_above_what_the_hub_signed_and_the_node_reports() -> None:
    signed = document_of("gate-17", NOTHING, serial=3, expires=1)

    assert [serial_after(None, None), serial_after(signed, None), serial_after(signed, state(serial=8))] == [1, 4, 9]
    assert serial_after(signed, state(serial=2**53)) == 4  # absurd: nobody could ever go above it


def test_a_document_says_what_was_chosen_and_nothing_where_nothing_was() -> None:
    chosen = merged(NOTHING, wish(labels={"ring": "x"}, display_name="Gate 17"))
    document = document_of("gate-17", chosen, serial=1, expires=9)

    assert Chosen.of(document) == chosen
    assert document_of("gate-17", NOTHING, serial=1, expires=9) == DeviceSettings(node="gate-17", serial=1, expires=9)


def test_labels_of_a_node_whose_site_accepts_none_stay() -> None:
    before, after = merged(NOTHING, wish(labels={"ring": "a", "zone": "1"})), merged(NOTHING, wish(labels={"ring": "b"}))
    site = {"ring": "a", "zone": "1", "site": "jfk"}

    assert labels_after(state(**site), before, after) == {"ring": "b", "site": "jfk"}
    assert labels_after(state(serial=1, ignored=("labels",), **site), before, after) == site


def test_only_nodes_for_which_another_deployment_decides_are_named() -> None:
    def deployment(name: str, where: str, priority: int = 0) -> Deployment:
        release = ReleaseRef("1.0.0", bytes(32))
        return Deployment(name=name, selector=parse(where), priority=priority, release=release, state="done", rollout=bytes(16), started=1)

    order = tuple(in_order([deployment("default", ""), deployment("canary", "ring=canary", 10)]))
    main, canary = {"ring": "main"}, {"ring": "canary"}
    facts = {"a": (NodeFacts("a", main), NodeFacts("a", canary)), "b": (NodeFacts("b", main), NodeFacts("b", {"ring": "other"}))}

    found = moves(order, facts)

    assert [(one.node, one.before and one.before.name, one.after and one.after.name) for one in found] == [("a", "default", "canary")]
