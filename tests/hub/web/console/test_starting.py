"""Start a rollout by its form: what it says before, what it does, and what becomes of a form that is wrong or late."""

import time
from collections.abc import Callable, Iterator

import pytest
from starlette.testclient import TestClient

from hub.operations.deployed import model_of
from hub.web.application import application
from hub.web.console.pages import start_terms
from hub.web.guard import LOOPBACK_NAMES, Door
from schemas.errors import Refused
from schemas.parameters import Parameter
from tests.hub.hubs import until
from tests.hub.web.console.people import Person, heading, hidden, text_of
from tests.hub.web.console.plant import Plant, plant

RELEASE = "/models/delay/releases/1.4.0"
START = f"{RELEASE}/start"
COST = "about 1.2 MB, 0.30 of it roaming"
MOVES = f"12 nodes move to 1.4.0 (12 from 1.3.2): {COST}."
SENTENCE = f"{MOVES} A stage begins when the gates of the one before hold. You can halt it at any time, and take nodes back."


@pytest.fixture(scope="module")
def settled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plant]:
    """Twelve nodes that serve 1.3.2, and a 1.4.0 that was published."""
    with plant(tmp_path_factory.mktemp("plant")) as made:
        for seed, version in enumerate(("1.3.2", "1.4.0")):
            made.publish(version, seed)
        made.start("1.3.2", "100")
        made.serve(made.devices, "1.3.2")
        until("all to serve it", lambda: made.facts().get("serving") == 12)
        yield made


@pytest.fixture(scope="module")
def as_role(settled: Plant) -> Iterator[Callable[[str], Person]]:
    app, clients = application(Door(settled.opened, LOOPBACK_NAMES)), list[TestClient]()

    def signed_in(role: str) -> Person:
        client = TestClient(app, base_url="http://localhost", raise_server_exceptions=False, follow_redirects=False)
        client.__enter__()
        clients.append(client)
        found = Person(client)
        secret = settled.link(role).partition("once=")[2]  # type: ignore[arg-type]
        assert found.send("/login", {"once": secret, "next": "/"}).status_code == 303
        return found

    yield signed_in
    for client in clients:
        client.__exit__(None, None, None)


def form_of(person: Person, path: str = START) -> dict[str, str]:
    """What a form sends of which nothing was changed."""
    page = person.page(path)
    return {**hidden(page), "stages": "50,100", "soak": "0", "approve": "", "activate": "", "fetch": "", "why": ""}


def test_a_releases_page_says_what_it_would_cost_this_fleet(as_role: Callable[[str], Person]) -> None:
    viewer, operator = as_role("viewer").page(RELEASE), as_role("operator").page(RELEASE)

    assert "Planned for this fleet" in text_of(viewer), text_of(viewer)
    assert MOVES in text_of(viewer)
    assert "free 3 0.30 0.0 s metered 6 0.60 0.8 s roaming 3 0.30 6.3 s" in text_of(viewer)
    assert f'href="{START}"' not in viewer
    assert "Rolling out needs the role operator; you are viewer." in text_of(viewer)
    assert f'<a class="btn" href="{START}">Roll out 1.4.0…</a>' in operator


def test_the_question_has_nodes_bytes_and_fields_with_defaults(as_role: Callable[[str], Person]) -> None:
    page = as_role("operator").page(START)

    assert heading(page) == "Roll out delay 1.4.0?"
    assert SENTENCE in text_of(page)
    assert 'name="stages" value="50,100"' in page
    assert 'name="soak" value="10"' in page
    assert "Roll out to 12 nodes" in text_of(page)
    assert "default 1.3.2 done every node" in text_of(page)
    assert "fleetcast rollout start delay@1.4.0 --stages 50,100 --soak-seconds 600" in page
    assert page.index("autofocus") < page.index('<button class="go')


def test_a_new_deployment_is_counted_before_it_is_made(settled: Plant, as_role: Callable[[str], Person]) -> None:
    person = as_role("operator")
    page = person.page(f"{START}?where=site%3Djfk")
    nobody = person.get(f"{START}?where=site%3Djkf")

    assert "4 nodes move to 1.4.0 (4 from 1.3.2)" in text_of(page)
    assert "4 nodes leave default for site-jfk." in text_of(page)
    assert "--where 'site=jfk'" in page.replace("&#39;", "'")
    assert "4 match site=jfk" in text_of(nobody.text)
    assert [one.name for one in model_of(settled.opened.repository, "delay").deployments] == ["default"]


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/models/nope/releases/1.4.0/start", 404),
        ("/models/delay/releases/9.9.9/start", 404),
        (f"{START}?deployment=%3Cb%3E", 409),
        (f"{START}?where=%28%28", 422),
        (f"{START}?deployment=a&deployment=b", 422),
        (f"{START}?stages=100", 422),
    ],
)
def test_what_cannot_be_started_is_said_so(as_role: Callable[[str], Person], path: str, status: int) -> None:
    answer = as_role("operator").get(path)

    assert answer.status_code == status, text_of(answer.text)
    assert heading(answer.text)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"stages": "100,10"}, "stages must rise and end at 100"),
        ({"stages": ""}, "Stages: give one line"),
        ({"soak": "-1"}, "soak is a number of minutes"),
        ({"soak": "99999"}, "soak is a number of minutes"),
        ({"approve": "70"}, "70"),
        ({"activate": "<b>never</b>"}, "<b>never</b>"),
        ({"fetch": "25:00-26:00"}, "25:00-26:00"),
        ({"deadline": "soon"}, "'soon' is no deadline: write 36h"),
        ({"receipts": "120"}, "nodes that must serve it, %: a number from 0 to 100"),
        ({"retries": "1.5"}, "a whole number from 1 to 100"),
        ({"full": "maybe"}, "write yes or no"),
        ({"why": "x" * 501}, "a reason is one line"),
    ],
)
def test_a_wrong_field_is_named_and_what_was_written_stays(
    settled: Plant, as_role: Callable[[str], Person], fields: dict[str, str], words: str
) -> None:
    person = as_role("operator")
    answer = person.send(START, {**form_of(person), "approve": "100", **fields})

    assert answer.status_code in {409, 422}
    assert words.lower() in text_of(answer.text).lower()
    assert "<b>never" not in answer.text
    assert fields.get("approve", "100") in answer.text[answer.text.index('name="approve"') :]
    assert model_of(settled.opened.repository, "delay").deployments[0].release.version == "1.3.2"


def test_parameters_of_the_release_are_fields_with_their_bounds() -> None:
    number = Parameter(name="threshold", goes_to="client", default=0.5, min=0.0, max=1.0)
    names = Parameter(name="labels", goes_to="client", default={"cat": "cat", "dog": "dog"})
    known = (number, names)
    hints = {one.name: one.hint for one in start_terms.inputs(known) if one.group == "Parameters"}

    assert hints["set-threshold"] == "0 to 1; empty: the release's own, 0.5"
    assert "names are cat, dog" in hints["set-labels"]
    found = start_terms.terms({"set-threshold": "0.7", "set-labels": "cat=Katze; dog=Hund"}, known, now=0)
    assert found == {"gate": {}, "parameters": {"threshold": 0.7, "labels": {"cat": "Katze", "dog": "Hund"}}}
    assert start_terms.terms({"set-threshold": " "}, known, now=0) == {"gate": {}}
    with pytest.raises(Refused, match="threshold"):
        start_terms.terms({"set-threshold": "7"}, known, now=0)


def test_nobody_starts_without_the_role_or_from_another_site(as_role: Callable[[str], Person]) -> None:
    viewer, operator = as_role("viewer"), as_role("operator")
    form = form_of(operator)

    assert viewer.get(START).status_code == 403
    assert viewer.send(START, form).status_code == 403
    assert operator.send(START, {**form, "csrf": "0" * 64}).status_code == 421
    assert operator.send(START, form, origin="https://evil.example").status_code == 421


def test_a_form_starts_a_rollout_and_a_late_one_sees_both_figures(settled: Plant, as_role: Callable[[str], Person]) -> None:
    person, late = as_role("operator"), as_role("admin")
    form = form_of(late)
    sent = {**form_of(person), "approve": "100", "activate": "00:00-24:00", "soak": "3", "why": "<i>faster</i>"}
    sent |= {"deadline": "36h", "receipts": "80", "failures": "7", "retries": "2", "retry": "5", "bytes": "1.5", "full": "no"}
    sent |= {"no_drift": "yes", "priority": "7", "silent": "30"}
    done = person.send(START, sent)
    stale = late.send(START, {**form, "approve": "50"})
    deployment = model_of(settled.opened.repository, "delay").deployments[0]
    again = late.page(START)
    event = next(one for one in settled.opened.store.changes(limit=20) if "1.4.0" in one.text)

    assert (done.status_code, done.headers["location"]) == (303, "/models/delay/deployments/default/rollouts")
    assert (deployment.release.version, deployment.state) == ("1.4.0", "running")
    assert deployment.gate is not None
    assert deployment.gate.soak_seconds == 180
    assert (deployment.gate.receipts_ratio_min, deployment.gate.failures_ratio_max, deployment.gate.halt_on_drift) == (0.8, 0.07, False)
    assert (deployment.gate.retries, deployment.gate.retry_seconds, deployment.gate.silent_seconds) == (2, 300, 1800)
    assert deployment.deadline is not None
    assert 35 * 3600 < deployment.deadline - time.time() <= 36 * 3600
    assert deployment.carriage is not None
    assert (deployment.carriage.bytes_max, deployment.carriage.full_download, deployment.carriage.priority) == (1_500_000, False, 7)
    assert [one.percent for one in deployment.stages] == [50, 100]
    assert deployment.activate is not None
    assert (event.actor, event.body["why"]) == ("shift-2", "<i>faster</i>")
    assert stale.status_code == 412
    seen = f"1.4.0 is running in default, 12 nodes, {COST} now, you saw 1.3.2 is done in default, 12 nodes, {COST}."
    assert seen in text_of(stale.text)
    assert 'name="approve" value="50"' in stale.text
    assert "Leave the rollout of 1.4.0 half-way: it runs, at 50 % of its nodes" in text_of(again)
    refused = late.send(START, {**form_of(late), "why": "twice"})
    assert refused.status_code == 409
    assert "is still being rolled out, at 50 % of its nodes" in text_of(refused.text)
    until("the hub to answer", lambda: not settled.opened.store.open_commands())
