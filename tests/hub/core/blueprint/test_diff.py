"""A blueprint against a fleet, without a disk: what it may not say, what it changes, and that an export changes nothing."""

import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hub.core.blueprint.changes import DeploymentAdded, ReleaseChanged, SettingsChanged
from hub.core.blueprint.diff import Difference, difference, wanted
from hub.core.blueprint.export import export
from hub.core.blueprint.present import ModelFacts, NodeFound, Present, ReleaseFacts
from hub.core.blueprint.reading import InvalidBlueprint, read
from hub.core.blueprint.settings import wish_of
from hub.core.blueprint.terms_apart import STANDARD_INPUT
from hub.core.nodes.device_settings import Chosen, SetNodeSettings, merged
from hub.core.rollouts.deployments import Model
from hub.core.rollouts.rollout import Progress
from schemas.deployments import Deployment, ReleaseParameters, Stage, in_order
from schemas.device_settings import LinkBudget
from schemas.limits import DEPLOYMENTS_MAX
from schemas.parameters import Parameter
from schemas.rollout import Carriage, Gate, ReleaseRef
from schemas.selectors import parse
from schemas.state import Profile, State

NOTHING = Chosen({}, budgets={})
PARAMETER = Parameter(name="threshold", goes_to="client", default=0.5, min=0, max=1)
REFS = {version: ReleaseRef(version, bytes([number]) * 32) for number, version in enumerate(("1.0.0", "1.1.0", "1.2.0"))}
RELEASES = {version: ReleaseFacts(ref, (PARAMETER,)) for version, ref in REFS.items()}


def node(number: int, chosen: Chosen = NOTHING) -> NodeFound:
    labels = {"site": "jfk" if number < 2 else "lga", **chosen.labels}
    profile = Profile(arch="x86_64", cores=1, memory_bytes=1, labels=labels)
    return NodeFound(f"n{number}", chosen, State(node=f"n{number}", session=1, status="online", at=1, profile=profile))


def fleet(*deployments: Deployment, chosen: dict[int, Chosen] | None = None) -> Present:
    rollouts = tuple(Progress("m", one, stage_entered_at=1, judged_from=1) for one in in_order(deployments))
    nodes = {f"n{number}": node(number, (chosen or {}).get(number, NOTHING)) for number in range(6)}
    return Present("f", {"m": ModelFacts(Model("m", 1, 0, rollouts), tuple(REFS), RELEASES)}, nodes)


def deployment(name: str = "default", version: str = "1.0.0", where: str = "", priority: int = 0, **more: Any) -> Deployment:
    fields = {"state": "done", "rollout": bytes(16), "started": 1, **more}
    return Deployment(name=name, priority=priority, selector=parse(where), release=REFS[version], **fields)


def compared(text: str, present: Present, **options: bool) -> Difference:
    found = wanted(read(text.encode(), name="fleet.yaml"), present)
    return difference(found, present, now=int(time.time()), check=lambda before, after, change: "", **options)


def refused(text: str, present: Present) -> str:
    with pytest.raises(InvalidBlueprint) as caught:
        compared(f"blueprint: 1\n{text}\n", present)
    return caught.value.reason


DEFAULT = "models:\n  m:\n    deployments:\n      default: {release: 1.0.0}\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("models: {n: {deployments: {}}}", "fleet.yaml, line 2, column 10: the fleet has no model n; there are m"),
        ("fleet: other", "line 2, column 8: this blueprint is of the fleet other, and this fleet is f"),
        (DEFAULT.replace("1.0.0", "1.9.0"), "line 5, column 26: m 1.9.0 is not published; did you mean"),
        (DEFAULT.replace("1.0.0", "1.0.0, stages: [10, 5, 100]"), "line 5, column 33: stages must rise and end at 100"),
        (DEFAULT.replace("1.0.0", "1.0.0, stages: [10, 50]"), "stages must rise and end at 100"),
        (DEFAULT.replace("1.0.0", "1.0.0, stages: [{name: c, where: site=x}, 100]"), "line 5, column 59: selector site=x matches none"),
        (DEFAULT.replace("1.0.0", "1.0.0, where: site=jfk"), "default matches every node and comes last"),
        (DEFAULT.replace("default", "jfk"), "line 5, column 7: deployment jfk needs `where`"),
        (
            DEFAULT.replace("default: {", "jfk: {where: site=jfq, "),
            "line 5, column 20: selector site=jfq matches none of 6 known nodes. 2 match",
        ),
        (DEFAULT.replace("default: {", "jfk: {where: sit=jfk, "), "No node has a label sit. Did you mean site?"),
        (DEFAULT.replace("default: {", "jfk: {where: 'site=jfk,,', "), "is no requirement"),
        (DEFAULT.replace("1.0.0", "1.0.0, pin: true, stages: [100]"), "`pin: true` moves all nodes at once"),
        (DEFAULT.replace("1.0.0", "1.0.0, parameters: {treshold: 1}"), "line 5, column 33: parameters of the release: expected threshold"),
        (DEFAULT.replace("1.0.0", "1.0.0, parameters: {threshold: 2}"), "expected 0 to 1, found 2"),
        (DEFAULT.replace("release: 1.0.0", "parameters: {threshold: 1}"), "parameters belong to a release"),
        (DEFAULT.replace("1.0.0", "1.0.0, gate: {shadow_ratio_min: 1}"), "1.0.0 is not compared in shadow"),
        (DEFAULT.replace("1.0.0", "1.0.0, activate: sometimes"), "it is no time of the week"),
        (DEFAULT.replace("1.0.0", "1.0.0, deadline: soon"), "write 90m, 36h, 7d or 2w"),
        ("nodes:\n  - node: n9\n    cohort: a", "line 3, column 11: node n9 has never reported and was never enrolled; did you mean n"),
        ("nodes:\n  - {node: n1, cohort: a}\n  - {node: n1, cohort: b}", "line 4, column 24: node n1 gets cohort b here and a in line 3"),
        ("nodes:\n  - {where: site=jfk, cohort: a}\n  - {where: site, cohort: b}", "node n0 gets cohort b here and a in line 3"),
        ("nodes:\n  - {where: site=jfk, labels: {site: lga}}", "the hub itself sets label site"),
        ("nodes:\n  - {node: n1, labels: {arch: arm}}", "'arch' is no label: a device says it itself"),
        ("nodes:\n  - {where: zone=a, cohort: a}", "No node has a label zone; there are"),
    ],
    ids=range(24),
)
def test_what_the_fleet_does_not_have_is_named_with_its_line(text: str, words: str) -> None:
    assert words in refused(text, fleet())


def test_an_empty_selector_may_be_allowed_and_unknown_fleets_are_not_checked() -> None:
    text = "blueprint: 1\nmodels: {m: {deployments: {jfk: {where: site=x, release: 1.0.0%s}}}}\n"
    found = compared(text % ", allow_empty: true", fleet())
    none_known = compared(text % "", Present("f", fleet().models, {}))

    assert [type(one.change) for one in found.planned] == [DeploymentAdded]
    assert [one.held for one in none_known.planned] == [""]


def test_a_node_that_is_named_counts_more_than_one_that_is_selected() -> None:
    text = "blueprint: 1\nnodes:\n  - {where: site=jfk, cohort: b}\n  - {node: n1, cohort: a}\n"
    found = [one.change for one in compared(text, fleet()).planned]

    assert {one.nodes: one.wish.cohort for one in found if isinstance(one, SettingsChanged)} == {("n0",): "b", ("n1",): "a"}


def test_labels_of_the_blueprint_count_for_its_deployments() -> None:
    text = (
        "blueprint: 1\nmodels: {m: {deployments: {c: {where: ring=c, release: 1.1.0}}}}\nnodes:\n  - {where: site=jfk, labels: {ring: c}}\n"
    )
    found = compared(text, fleet())

    assert [type(one.change) for one in found.planned] == [SettingsChanged, DeploymentAdded]
    assert "SettingsChanged" not in {
        type(one.change).__name__
        for one in compared(text, fleet(chosen={0: Chosen({"ring": "c"}, budgets={}), 1: Chosen({"ring": "c"}, budgets={})})).planned
    }


def test_a_rollout_that_moves_holds_another_release_unless_it_is_superseded() -> None:
    moving = deployment(version="1.1.0", state="running", stages=(Stage(10), Stage(100)), fallback=REFS["1.0.0"])
    text = "blueprint: 1\n" + DEFAULT.replace("1.0.0", "1.2.0")
    held = compared(text, fleet(moving))
    insisted = compared(text, fleet(moving), supersede=True)

    assert ["is still being rolled out" in one.held for one in held.planned] == [True]
    assert [one.held for one in insisted.planned] == [""]


def test_what_went_back_is_held_and_a_halt_is_named_and_left_alone() -> None:
    back = deployment(version="1.1.0", state="rolled_back", fallback=REFS["1.0.0"])
    halted = deployment(version="1.1.0", state="halted", fallback=REFS["1.0.0"])
    text = "blueprint: 1\n" + DEFAULT.replace("1.0.0", "1.1.0")
    found = compared(text, fleet(back)).planned
    note = compared(text, fleet(halted))

    assert [isinstance(one.change, ReleaseChanged) and "--again" in one.held for one in found] == [True]
    assert [one.held for one in compared(text, fleet(back), again=True).planned] == [""]
    assert compared("blueprint: 1\n" + DEFAULT, fleet(back)).planned == ()
    assert (note.planned, ["is halted" in one for one in note.notes]) == ((), [True])


def test_a_halted_rollout_of_another_release_is_held_and_named() -> None:
    halted = deployment(version="1.1.0", state="halted", stages=(Stage(10), Stage(100)), fallback=REFS["1.0.0"])
    text = "blueprint: 1\n" + DEFAULT.replace("1.0.0", "1.2.0")
    held = [one.held for one in compared(text, fleet(halted)).planned]

    assert len(held) == 1
    assert "the rollout of m 1.1.0 (default) is halted at 10 %: `fleetcast rollout resume m` goes on" in held[0]
    assert "--supersede begins 1.2.0 all the same" in held[0]
    assert [one.held for one in compared(text, fleet(halted), supersede=True).planned] == [""]


RUNNING = {"state": "running", "version": "1.1.0", "stages": (Stage(10), Stage(100))}
BESIDE = [
    deployment("a1", where="node=n1", priority=11, **RUNNING),
    deployment("a2", where="node=n1", priority=12, **RUNNING),
    deployment("a3", where="node=n2", priority=13, **RUNNING),
    deployment("a4", where="node=n1", priority=14),
]


def test_every_removal_is_listed_with_what_speaks_against_it() -> None:
    held = {getattr(one.change, "deployment", ""): one.held for one in compared("blueprint: 1\n" + DEFAULT, fleet(*BESIDE)).planned}
    insisted = compared("blueprint: 1\n" + DEFAULT, fleet(*BESIDE), supersede=True)

    assert list(held) == ["default", "a4", "a3", "a2", "a1"]
    assert [name for name, why in held.items() if not why] == ["default", "a4"]
    assert all(f"`fleetcast rollout halt m --deployment {name}` first" in held[name] for name in ("a1", "a2", "a3"))
    assert {name: "wait for its end" in held[name] for name in ("a1", "a2", "a3")} == {"a1": False, "a2": False, "a3": True}
    assert [one.held for one in insisted.planned] == [""] * 5
    assert [one.name for one in insisted.after["m"].rollouts] == ["default"]


def test_a_change_that_cannot_be_tried_hides_none_that_comes_after_it() -> None:
    full = [deployment(f"d{number}", where=f"node=n{number % 6}", priority=20) for number in range(DEPLOYMENTS_MAX)]
    kept = "".join(f"      d{number}: {{where: node=n{number % 6}, priority: 20}}\n" for number in range(DEPLOYMENTS_MAX - 1))
    text = "blueprint: 1\nmodels:\n  m:\n    deployments:\n      first: {where: node=n1, priority: 30, release: 1.1.0}\n" + kept
    found = [(getattr(one.change, "deployment", ""), bool(one.held)) for one in compared(text, fleet(*full)).planned]

    assert found == [("first", True), (f"d{DEPLOYMENTS_MAX - 1}", False)]


def test_a_pin_over_a_running_rollout_is_held_and_made_where_one_insists() -> None:
    text = "blueprint: 1\n" + DEFAULT.replace("1.0.0", "1.2.0, pin: true")
    held = compared(text, fleet(deployment(**RUNNING))).planned

    assert ["--supersede pins it all the same" in one.held for one in held] == [True]
    assert [one.held for one in compared(text, fleet(deployment(**RUNNING)), supersede=True).planned] == [""]


def test_a_hold_names_the_deployment_wherever_there_are_several() -> None:
    halted = deployment(version="1.1.0", state="halted", stages=(Stage(10), Stage(100)), fallback=REFS["1.0.0"])
    beside = fleet(halted, deployment("a", where="node=n1", priority=10, **RUNNING))
    text = "blueprint: 1\nmodels: {m: {deployments: {a: {where: node=n1, release: 1.1.0}, default: {release: %s}}}}\n"
    (other,) = compared(text % "1.2.0", beside).planned
    same = compared(text % "1.1.0", beside)

    assert "`fleetcast rollout resume m --deployment default` goes on, `fleetcast rollout back m --deployment default` ends" in other.held
    assert any("`fleetcast rollout resume m --deployment default` goes on, and no apply does" in one for one in same.notes)


LABELS = st.dictionaries(
    st.sampled_from(["ring", "no", "on", "rack.1", "0x1F", "1e3"]), st.sampled_from(["no", "1.10", "010", "a_b", "y"]), max_size=3
)
BUDGETS = st.dictionaries(
    st.sampled_from(["free", "metered", "roaming"]),
    st.builds(
        LinkBudget,
        bytes_day_max=st.none() | st.integers(0, 2**50),
        hours=st.none() | st.sampled_from(["22:00-05:00", "1:00-24:00"]),
        full_download=st.none() | st.booleans(),
    ).filter(lambda one: bool(one.model_dump(exclude_none=True))),
    max_size=3,
)
CHOSEN = st.builds(
    Chosen,
    labels=LABELS,
    cohort=st.none() | st.sampled_from(["nyc", "no", "on", "1"]),
    telemetry=st.none() | st.booleans(),
    display_name=st.none() | st.sampled_from(["Gate 17", "yes", "# a: 'b'", '"\\"', "é", "- a", "{{x}}", "1.10", "!gpu", "*a"]),
    budgets=BUDGETS,
)
STAGES = st.sampled_from(
    [(Stage(100),), (Stage(1), Stage(100, approve=True)), (Stage(None, "canary", parse("site=jfk"), True), Stage(100))]
)
ONE = {
    "version": st.sampled_from(list(REFS)),
    "state": st.sampled_from(["running", "halted", "done", "rolled_back"]),
    "fallback": st.none() | st.sampled_from(list(REFS.values())),
    "stages": STAGES,
    "gate": st.none() | st.builds(Gate, soak_seconds=st.integers(0, 100), nodes_min=st.none() | st.integers(1, 5)),
    "carriage": st.none() | st.builds(Carriage, bytes_max=st.none() | st.integers(0, 10), priority=st.integers(0, 9)),
    "deadline": st.none() | st.integers(100, 10**6),
    "parameters": st.none()
    | st.builds(
        lambda ref, value: (ReleaseParameters(ref.digest, {"threshold": value}),), st.sampled_from(list(REFS.values())), st.floats(0, 1)
    ),
}
OTHERS = st.lists(
    st.tuples(st.sampled_from(["site=jfk", "site=nowhere", "!gpu", "site in (jfk,lga),tier!=lab", "node=n3"]), st.integers(0, 50)),
    max_size=4,
    unique_by=lambda one: one[0],
)


@st.composite
def fleets(draw: st.DrawFn) -> Present:
    found = [deployment(**{key: draw(value) for key, value in ONE.items()})] if draw(st.booleans()) else []
    for number, (where, priority) in enumerate(draw(OTHERS)):
        found.append(deployment(f"d{number}", where=where, priority=priority, **{key: draw(value) for key, value in ONE.items()}))
    return fleet(*found, chosen=draw(st.dictionaries(st.integers(0, 5), CHOSEN, max_size=4)))


@pytest.mark.parametrize(
    ("terms", "more", "named"),
    [
        ("stages: [10, 100]", {}, "stages differ from what 1.0.0 was rolled out on. Its nodes have it, so `apply` changes nothing"),
        (
            "stages: [10, 100]",
            {"state": "running", "stages": (Stage(5), Stage(100))},
            "stages differ from what 1.0.0 is being rolled out on. `apply` does not change a rollout that has begun",
        ),
        ("stages: [5, {percent: 100, approve: true}]", {"stages": (Stage(5), Stage(100, approve=False))}, ""),
        ("gate: {soak_seconds: 60}", {"gate": Gate(soak_seconds=60)}, ""),
        ("gate: {soak_seconds: 60}, deadline: 2h", {"deadline": 3601}, "gate and deadline differ"),
        ("deadline: 1h", {"deadline": 3601}, ""),
        ("stages: [10, 100]", {"state": "rolled_back"}, ""),
        ("activate: '22:00-05:00'", {}, "hours in which nodes switch differ"),
    ],
)
def test_terms_that_differ_alone_are_named_and_change_nothing(terms: str, more: dict[str, Any], named: str) -> None:
    text = f"blueprint: 1\nmodels: {{m: {{deployments: {{default: {{release: 1.0.0, {terms}}}}}}}}}\n"

    found = compared(text, fleet(deployment(**more)))

    assert (named in " ".join(found.terms), bool(found.terms)) == (True, bool(named)), found.terms
    assert more.get("state") == "rolled_back" or found.planned == ()


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("fleet.yaml", "fleetcast apply fleet.yaml --again"),
        ("my fleet.yaml", "fleetcast apply 'my fleet.yaml' --again"),
        ("revision 3", "fleetcast apply --revision 3 --again"),
        (STANDARD_INPUT, "fleetcast apply FILE --again"),
    ],
)
def test_terms_of_a_running_rollout_come_with_the_commands_that_begin_it_anew(name: str, command: str) -> None:
    text = "blueprint: 1\nmodels: {m: {deployments: {default: {release: 1.1.0, stages: [10, 100]}}}}\n"
    asked = read(text.encode(), name=name)
    running = fleet(deployment(version="1.1.0", state="running", stages=(Stage(5), Stage(100)), fallback=REFS["1.0.0"]))
    back = fleet(deployment(version="1.1.0", state="rolled_back", stages=(Stage(5), Stage(100)), fallback=REFS["1.0.0"]))

    (sentence,) = difference(wanted(asked, running), running, now=1, check=lambda before, after, change: "").terms
    (planned,) = difference(wanted(asked, back), back, now=1, again=True, check=lambda before, after, change: "").planned

    assert sentence.endswith(f"apply once more: `fleetcast rollout back m`, then `{command}`")
    started = planned.change.command(now=1, breaking=False, supersede=False)
    assert (planned.held, started.version, started.stages) == ("", "1.1.0", (10, 100))


@pytest.mark.parametrize("value", [5e-324, 1e-07, 1.5e-07])
def test_a_small_number_is_exported_as_a_number(value: float) -> None:
    present = fleet(deployment(parameters=(ReleaseParameters(REFS["1.0.0"].digest, {"threshold": value}),)))

    assert compared(export(present), present).planned == ()


@settings(max_examples=60, deadline=None)
@given(fleets())
def test_an_export_of_any_fleet_differs_from_it_in_nothing(present: Present) -> None:
    found = compared(export(present, based_on=3), present)
    assert (found.planned, found.terms) == ((), ())


@settings(max_examples=60, deadline=None)
@given(fleets(), fleets())
def test_what_is_planned_leads_from_any_fleet_to_any_other(present: Present, other: Present) -> None:
    found = compared(export(other), present, supersede=True, again=True)
    nodes = {name: NodeFound(name, other.nodes[name].chosen, one.state) for name, one in present.nodes.items()}
    after = Present("f", {"m": ModelFacts(found.after["m"], tuple(REFS), RELEASES)}, nodes)
    left = compared(export(other), after, supersede=True, again=True)

    # A deployment of which nothing is served has no release to be made with: it is held, and what comes after it is planned all the same.
    held = [one.change for one in found.planned if one.held]
    assert all(one.change in held for one in left.planned)


@settings(max_examples=60, deadline=None)
@given(CHOSEN, CHOSEN)
def test_a_command_makes_of_any_settings_any_others(before: Chosen, after: Chosen) -> None:
    fields = wish_of(before, after)
    wish = SetNodeSettings.model_validate({"node": "n1", **fields})

    assert merged(before, wish) == after
    assert bool(fields) == (before != after)
