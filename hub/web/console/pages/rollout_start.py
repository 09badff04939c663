"""Ask before a rollout starts: which nodes move, what it costs, what speaks against it, and in which stages it goes."""

from collections.abc import Mapping
from typing import Any, Final

from fleetcast.counted import counted as number_of
from fleetcast.sentence_end import ended
from hub.core.rollouts.deployments import Model
from hub.operations import rollouts
from hub.operations.deployed import model_of, release_of
from hub.operations.queueing import queue
from hub.web.console.moments import counted
from hub.web.console.page import Asking, Done, Given, Input, Question, View, etag_of, serial_of
from hub.web.console.pages import start_terms
from hub.web.console.pages.release_plan import Planned, cost, planned, rows, warnings, who
from hub.web.console.sentence import path
from schemas.deployments import DEFAULT
from schemas.errors import Code, Refused
from schemas.limits import SELECTOR_CHARACTERS_MAX
from schemas.selectors import text_of
from schemas.windows import WINDOW_TEXT_CHARACTERS_MAX

PATH: Final = "/models/{model}/releases/{version}/start"
SOAK_MINUTES: Final = 10
SOAK_MINUTES_MAX: Final = 30 * 24 * 60  # As Gate.soak_seconds.
DIGITS_MAX: Final = 5
STAGES_CHARACTERS_MAX: Final = 2000
APPROVE_CHARACTERS_MAX: Final = 500
# Stages that are proposed, by the least number of nodes: the first one is small, and still some nodes.
STAGES: Final = ((1000, "1,10,50,100"), (100, "5,25,100"), (20, "10,50,100"), (2, "50,100"), (0, "100"))


def ask_start(view: View) -> Asking:
    """Return the question behind Roll out."""
    model, version = view.params["model"], view.params["version"]
    _, manifest = release_of(view.fleet.repository, model, version)
    place = _place(view)
    found = planned(view, model, rollouts.start_of({"version": version, **place}))
    present = model_of(view.fleet.repository, model)
    before, title = present.get(found.deployment), f"{model} {version}"
    stages = next(text for least, text in STAGES if found.nodes >= least)
    half_way = before is not None and before.deployment.state == "running"
    fields = [
        Input("stages", "Stages", stages, STAGES_CHARACTERS_MAX, hint="Percents that end at 100, or selectors: canary: site=lab; 10; 100"),
        Input("soak", "Soak, minutes", str(SOAK_MINUTES), DIGITS_MAX, hint="All gates must hold for so long before the next stage"),
        Input(
            "approve",
            "Stages that wait for an approval",
            characters_max=APPROVE_CHARACTERS_MAX,
            is_required=False,
            hint="Such as 100; empty: none waits",
        ),
        Input(
            "activate",
            "Hours in which nodes may switch",
            characters_max=WINDOW_TEXT_CHARACTERS_MAX,
            is_required=False,
            hint="Such as Mon-Fri 22:00-05:00, in each node's own time; empty: at any time",
        ),
        Input(
            "fetch",
            "Hours in which nodes may fetch",
            characters_max=WINDOW_TEXT_CHARACTERS_MAX,
            is_required=False,
            hint="Empty: at any time",
        ),
    ]
    if half_way and before is not None:
        said = f"Leave the rollout of {before.deployment.release.version} half-way: it runs, at {before.deployment.percent} % of its nodes"
        fields.append(Input("supersede", said, is_required=False, kind="check"))
    if found.breaks:
        fields.append(Input("breaking", "Start although programs would not work with it", is_required=False, kind="check"))
    fields += start_terms.inputs(manifest.parameters or ())
    return Asking(
        heading=f"Roll out {title}?",
        text=_text(found, stages),
        no="Leave it" if found.moves == 1 else "Leave them",
        yes=f"Roll out to {number_of(found.moves, 'node')}" if found.moves else f"Roll out {version}",
        cli=_cli(model, version, place, stages),
        back_to=path("models", model, "releases", version),
        etag=etag_of(present.serial, found.takers),
        fields=fields,
        figure=_figure(present, found),
        template="start.html",
        values={
            "warnings": [*warnings(found), *_besides(view, model, version, place, stages), *found.notes],
            "plan": found,
            "links": rows(found),
            "deployments": [
                {
                    "name": one.name,
                    "where": text_of(one.deployment.selector) if one.deployment.selector else "every node",
                    "release": one.deployment.release.version,
                    "state": one.deployment.state.replace("_", " "),
                    "address": path("models", model, "releases", version, "start", deployment=one.name),
                    "is_chosen": one.name == found.deployment,
                }
                for one in present.rollouts
            ],
            "here": path("models", model, "releases", version, "start"),
            "is_new": before is None,
            "asked_where": place.get("where", ""),
            "asked_name": place.get("deployment", "") if before is None else "",
            "default": DEFAULT,
        },
    )


def _place(view: View) -> dict[str, str]:
    """Return the deployment that the address asks for: by its name, its selector, or both."""
    found = {name: text for name in ("deployment", "where") if (text := view.query.get(name, "").strip())}
    if len(found.get("where", "")) > SELECTOR_CHARACTERS_MAX:
        raise Refused(Code.SELECTOR_INVALID, f"the selector is longer than {SELECTOR_CHARACTERS_MAX} characters")
    try:
        rollouts.start_of({"version": view.params["version"], **found})
    except Refused:
        raise Refused(Code.ROLLOUT_INVALID, "a deployment has a name such as line-1: small letters, digits and dashes") from None
    return found


def _text(found: Planned, stages: str) -> str:
    some = (
        f", and {counted(found.already)} {'serves' if found.already == 1 else 'serve'} it already" if found.already and found.moves else ""
    )
    costs = f": {cost(found)}." if found.moves else "."
    how = (
        (" A stage begins when the gates of the one before hold." if "," in stages else " It has one stage: all of them at once.")
        if found.moves
        else ""
    )
    return f"{who(found)}{some}{costs}{how} You can halt it at any time, and take nodes back."


def _besides(view: View, model: str, version: str, place: Mapping[str, str], stages: str) -> list[str]:
    """Return why it would be refused as it is proposed, or what the checks of the release warn of."""
    wish = rollouts.start_of({"version": version, "stages": stages, "supersede": True, "breaking": True, **place})
    try:
        return list(rollouts.start(view.fleet, model, wish).warnings)
    except Refused as refused:
        return [ended(f"It would be refused: {refused.reason}")]


def _figure(present: Model, found: Planned) -> str:
    before = present.get(found.deployment)
    now = (
        f"{before.deployment.release.version} is {before.deployment.state.replace('_', ' ')}"
        if before is not None
        else "nothing is rolled out"
    )
    return f"{now} in {found.deployment}, {number_of(found.nodes, 'node')}, {cost(found)}"


def _cli(model: str, version: str, place: Mapping[str, str], stages: str) -> str:
    of = "".join(f" --{name} '{text}'" if name == "where" else f" --{name} {text}" for name, text in place.items())
    return f"fleetcast rollout start {model}@{version}{of} --stages {stages} --soak-seconds {SOAK_MINUTES * 60}"


def start(view: View, given: Given) -> Done:
    """Start the rollout as the form has it."""
    model, fields = view.params["model"], given.fields
    _, manifest = release_of(view.fleet.repository, model, view.params["version"])
    terms = start_terms.terms(fields, manifest.parameters or (), now=view.now)
    asked: dict[str, Any] = {
        **terms,
        "version": view.params["version"],
        "stages": fields["stages"].strip(),
        "approve": [_key(one) for one in fields.get("approve", "").split(",") if one.strip()],
        "gate": {**terms["gate"], "soak_seconds": _minutes(fields.get("soak", "").strip()) * 60},
        **{name: text for name in ("activate", "fetch") if (text := fields.get(name, "").strip())},
        **{name: True for name in ("supersede", "breaking") if fields.get(name) == "yes"},
        **_place(view),
    }
    wish = rollouts.start_of(asked).model_copy(
        update={"if_serial": serial_of(given.etag), **({"why": given.reason} if given.reason else {})}
    )
    prepared = rollouts.start(view.fleet, model, wish, require_check=fields.get("require_check") == "yes")
    at = path("models", model, "deployments", prepared.deployment, "rollouts")
    return Done(at, queue(view.fleet, prepared.model, prepared.command))


def _key(text: str) -> int | str:
    one = text.strip().removesuffix("%").strip()
    return int(one) if one.isascii() and one.isdecimal() and len(one) <= DIGITS_MAX else one


def _minutes(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= DIGITS_MAX and int(text) <= SOAK_MINUTES_MAX):
        raise Refused(Code.REQUEST_INVALID, f"soak is a number of minutes from 0 to {SOAK_MINUTES_MAX}, not {text[:20]!r}")
    return int(text)


QUESTIONS: Final = (Question(PATH, "Rolling out", "operator", ask_start, start, frozenset({"deployment", "where"}), subject="the release"),)
