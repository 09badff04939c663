"""A model's deployments: which one a command means, pins, removal, and what an operator is to know of the others."""

from dataclasses import replace

import pytest

from hub.core.rollouts import deployments as core
from hub.core.rollouts.commands import RemoveDeployment, SetDeployment, Start
from hub.core.rollouts.deployments import Model
from schemas.deployments import DEFAULT, WHERE_PRIORITY, Run, deciding, wish
from schemas.errors import Refused
from schemas.limits import DEPLOYMENTS_MAX
from schemas.names import sha256
from schemas.rollout import ReleaseRef
from schemas.selectors import NodeFacts, parse

ONE, TWO, THREE = (ReleaseRef(f"1.{number}.0", sha256(bytes([number]))) for number in range(3))
NODES = [NodeFacts(f"n{number}", {"site": "jfk" if number < 2 else "lga"}) for number in range(40)]


def started(known: Model, release: ReleaseRef, state: str = "done", **wish: object) -> Model:
    start = Start.model_validate({"version": release.version, **wish})
    progress = core.begun(known, start, release, nodes=NODES, rollout=sha256(release.digest)[:16], now=0)
    return known.with_rollout(replace(progress, deployment=progress.deployment.model_copy(update={"state": state})))


def pinned(known: Model, release: ReleaseRef | None = None, **wish: object) -> Model:
    asked = SetDeployment.model_validate(wish)
    return known.with_rollout(core.pinned(known, asked, release, nodes=NODES, rollout=b"p" * 16, now=0))


def runs(known: Model, node: NodeFacts) -> ReleaseRef | None:
    found = wish(deciding(known.deployments, node), node, serving=None, moved=None, now=0)
    return found.release if isinstance(found, Run) else None


BOTH = started(started(Model("delay"), ONE), TWO, where="site=jfk")


def test_a_rollout_by_selector_makes_a_deployment_above_the_default_one() -> None:
    assert [(one.name, one.priority) for one in BOTH.deployments] == [("site-jfk", WHERE_PRIORITY), (DEFAULT, 0)]
    assert BOTH.deployments[0].fallback == ONE
    assert [runs(BOTH, node) for node in NODES[1:3]] == [TWO, ONE]


def test_the_next_rollout_by_the_same_selector_is_in_the_same_deployment() -> None:
    again = started(BOTH, THREE, labels={"site": "jfk"})

    assert [one.name for one in again.deployments] == ["site-jfk", DEFAULT]
    assert again.deployments[0].fallback == TWO


def test_selector_and_labels_of_one_start_are_both_required() -> None:
    known = started(Model("delay"), ONE, where="gpu", labels={"site": "jfk"}, allow_empty=True)

    assert known.deployments[0].selector == parse("gpu,site=jfk")


@pytest.mark.parametrize(
    ("start", "words"),
    [
        ({"deployment": "site-jfk", "where": "site=lga"}, "selects site=jfk, not site=lga: leave the selector out"),
        ({"deployment": "hold"}, "there is no deployment hold of delay; there are site-jfk, default: give --where"),
        (
            {"deployment": "default", "where": "site=lga"},
            "selects every node, not site=lga: leave the selector out or give another name .rollout.invalid",
        ),
    ],
)
def test_a_deployment_that_is_not_meant_so_is_refused_with_the_mend(start: dict[str, str], words: str) -> None:
    with pytest.raises(Refused, match=words):
        started(BOTH, THREE, **start)


def test_a_command_means_the_named_deployment_or_the_default_or_only_one() -> None:
    only = started(Model("delay"), ONE, where="site=jfk")
    two = started(only, TWO, where="site=lga")

    assert core.chosen(BOTH, None).name == DEFAULT
    assert core.chosen(BOTH, "site-jfk").name == "site-jfk"
    assert core.chosen(only, None).name == "site-jfk"
    with pytest.raises(Refused, match=r"several deployments \(site-jfk, site-lga\): choose one with --deployment"):
        core.chosen(two, None)
    with pytest.raises(Refused, match="there is no deployment hold of delay"):
        core.chosen(two, "hold")
    with pytest.raises(Refused, match="choose one with --deployment"):
        core.chosen(started(BOTH, THREE, "running", where="site=jfk"), None)
    with pytest.raises(Refused, match="choose one with --deployment"):
        core.chosen(BOTH, None, to_go_back=True)
    with pytest.raises(Refused, match="no rollout of delay"):
        core.chosen(Model("delay"), None)


def test_a_pin_holds_one_device_back_and_removing_it_lets_it_follow() -> None:
    known = pinned(started(started(Model("delay"), ONE), TWO), ONE, name="hold", where="node=n7", priority=100)

    pin = known.deployments[0]
    assert (pin.name, pin.state, pin.gate, len(pin.stages)) == ("hold", "done", None, 1)
    assert [runs(known, NODES[number]) for number in (7, 8)] == [ONE, TWO]
    assert runs(core.removed(known, RemoveDeployment(name="hold"), nodes=NODES), NODES[7]) == TWO


def test_a_deployment_that_is_set_without_a_release_moves_nobody() -> None:
    known = pinned(BOTH, name="gate", where="node in (n0,n1)", priority=20)
    changed = pinned(known, name="gate", where="node=n1", priority=5)

    assert known.deployments[0].release == TWO
    assert (changed.deployments[1].name, changed.deployments[1].selector) == ("gate", parse("node=n1"))
    assert changed.deployments[1].rollout == known.deployments[0].rollout


def test_a_deployment_of_nodes_with_several_releases_must_name_the_one_to_run() -> None:
    half_way = started(started(Model("delay"), ONE), TWO, "running", stages=(50, 100))

    for known, words in ((BOTH, "1.0.0, 1.1.0"), (half_way, "1.0.0 or 1.1.0")):
        with pytest.raises(Refused, match=rf"several releases of delay \({words}\): give the one to run"):
            pinned(known, name="gate", where="node in (n1,n2)", priority=20)


def test_a_new_default_deployment_does_not_fall_back_to_what_others_have() -> None:
    by_site = started(Model("delay"), TWO, where="site=jfk")

    assert started(by_site, ONE).deployments[-1].fallback is None
    everybody = started(Model("delay"), TWO, where="site")
    assert started(everybody, ONE).deployments[-1].fallback is None


def test_more_labels_than_a_selector_holds_are_refused() -> None:
    with pytest.raises(Refused, match="at most 16 are allowed"):
        started(BOTH, ONE, labels={f"key{number}": "a" for number in range(17)}, allow_empty=True)


def test_a_deployment_cannot_be_set_where_that_makes_no_sense() -> None:
    running = started(Model("delay"), ONE, "running")
    for wish_, release, words in (
        ({"name": "hold"}, ONE, "give --where SELECTOR"),
        ({"name": "hold", "where": "site=jkf"}, ONE, "2 match site=jfk"),
        ({"name": DEFAULT, "where": "site=jfk"}, ONE, "matches every node"),
        ({"name": DEFAULT, "priority": 3}, ONE, "comes last whatever its priority"),
        ({"name": DEFAULT}, TWO, "still being rolled out"),
    ):
        with pytest.raises(Refused, match=words):
            pinned(running, release, **wish_)
    with pytest.raises(Refused, match="give the one to run, with --release"):
        pinned(Model("delay"), name="hold", where="site=jfk")


def test_a_deployment_whose_rollout_runs_is_not_removed() -> None:
    running = started(Model("delay"), ONE, "running")

    with pytest.raises(Refused, match="still being rolled out in deployment default"):
        core.removed(running, RemoveDeployment(name=DEFAULT), nodes=NODES)
    with pytest.raises(Refused, match="there is no deployment hold of delay; there are default"):
        core.removed(running, RemoveDeployment(name="hold"), nodes=NODES)


def test_more_deployments_than_a_statement_holds_are_refused() -> None:
    known = Model("delay")
    for number in range(DEPLOYMENTS_MAX):
        known = pinned(known, ONE, name=f"d{number}", where=f"node=n{number % 40}")

    with pytest.raises(Refused, match=f"has {DEPLOYMENTS_MAX} deployments.*fleetcast deploy remove"):
        pinned(known, ONE, name="one-more", where="node=n1")
    assert pinned(known, TWO, name="d1").get("d1")


def test_a_start_says_which_nodes_stay_because_others_decide_for_them() -> None:
    place = core.place_of(BOTH, Start(version="1.2.0", labels={}), NODES)

    assert core.stay(BOTH, place, NODES) == [
        "2 of 40 nodes stay on 1.1.0, because deployment site-jfk decides for them; "
        "`fleetcast deploy remove delay site-jfk` lets them follow"
    ]


def test_a_new_deployment_says_whose_nodes_it_takes() -> None:
    wish_ = Start(version="1.2.0", where="node in (n1,n2,n3)", deployment="a", labels={})

    place = core.place_of(BOTH, wish_, NODES)
    above = replace(place, priority=20)

    assert core.taken(BOTH, above, NODES) == {"site-jfk": ["n1"], DEFAULT: ["n2", "n3"]}
    assert core.ties(BOTH, place.name, place.selector, place.priority)[0].startswith(
        "deployments a and site-jfk have one priority, 10, and could match the same nodes: a decides then, by its name"
    )
    assert core.ties(BOTH, "a", parse("site=lga"), 10) == []
    assert core.ties(BOTH, "a", parse("site=jfk"), 11) == []


def test_a_running_rollout_is_pinned_over_and_removed_where_one_insists() -> None:
    running = started(started(Model("delay"), ONE), TWO, "running", stages=(50, 100))
    over = pinned(running, THREE, name=DEFAULT, supersede=True)

    assert (over.deployments[0].state, over.deployments[0].release, over.deployments[0].fallback) == ("done", THREE, ONE)
    assert core.removed(running, RemoveDeployment(name=DEFAULT, supersede=True), nodes=NODES).rollouts == ()


@pytest.mark.parametrize(("name", "waits"), [("first", True), ("second", False)])
def test_the_end_of_a_rollout_is_only_waited_for_where_it_moves_nodes(name: str, waits: bool) -> None:
    above = started(Model("delay"), ONE, "running", deployment="first", where="node=n1", priority=20, stages=(50, 100))
    known = started(above, TWO, "running", deployment="second", where="node=n1", stages=(50, 100))
    halt = f"`fleetcast rollout halt delay --deployment {name}` first"
    said = []
    for refused in (
        lambda: core.removed(known, RemoveDeployment(name=name), nodes=NODES),
        lambda: pinned(known, THREE, name=name),
        lambda: started(known, THREE, deployment=name),
    ):
        with pytest.raises(Refused) as refusal:
            refused()
        said.append(refusal.value.reason)

    assert [("wait for its end" in one, "does not end by itself" in one, halt in one) for one in said] == [(waits, not waits, True)] * 3


def test_a_mend_names_the_deployment_wherever_there_are_several() -> None:
    alone = started(Model("delay"), ONE, "running")

    assert alone.command("halt", DEFAULT) == "fleetcast rollout halt delay"
    assert BOTH.command("back", DEFAULT) == "fleetcast rollout back delay --deployment default"
    assert BOTH.without(DEFAULT).command("back", "site-jfk") == "fleetcast rollout back delay --deployment site-jfk"


@pytest.mark.parametrize("state", ["running", "halted", "done"])
def test_what_a_refused_start_names_as_its_mend_is_not_itself_refused(state: str) -> None:
    known = started(started(Model("delay"), ONE, state, where="site=jfk"), TWO, "running", stages=(50, 100))
    with pytest.raises(Refused) as refusal:
        started(known, THREE)

    words = refusal.value.reason.split("`")[1].split()
    assert words[:4] == ["fleetcast", "rollout", "halt", "delay"]
    named = words[words.index("--deployment") + 1] if "--deployment" in words else None
    assert core.chosen(known, named).name == DEFAULT
