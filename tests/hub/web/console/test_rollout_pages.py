"""The fleet's page, a rollout's page, and what is asked before it is changed: counts that add up, words that are exact, forms that hold."""

import json
import re
import shlex
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from html import unescape
from itertools import groupby
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import click
import httpx
import pytest
from click.testing import CliRunner
from starlette.testclient import TestClient

from hub.cli.commands import command
from hub.operations import api_tokens
from hub.operations.deployed import model_of
from hub.operations.node_listing import Asked, listing
from hub.operations.snapshot import Snapshot, Snapshots
from hub.web.application import application
from hub.web.console import rendering, waiting
from hub.web.guard import LOOPBACK_NAMES, Door
from schemas.deployments import is_reached
from schemas.selectors import NodeFacts
from tests.hub.hubs import Device, until
from tests.hub.web.console.people import Person, heading, hidden, text_of
from tests.hub.web.console.plant import Plant, plant

PAGE = "/models/delay/deployments/default/rollouts"
ASKED = ("/nodes?serves=delay", "/nodes?deployment=delay%2Fdefault&where=site%3Djfk", "/nodes?waits=approval", "/drift?model=delay")


@pytest.fixture(scope="module")
def half_way(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plant]:
    """Twelve nodes that serve 1.3.2; of the first half of a rollout of 1.4.0 four serve it, one refused it, and one fetches it."""
    with plant(tmp_path_factory.mktemp("plant")) as made:
        for seed, version in enumerate(("1.3.2", "1.4.0")):
            made.publish(version, seed)
        made.start("1.3.2", "100")
        made.serve(made.devices, "1.3.2")
        until("all to serve it", lambda: made.facts().get("serving") == 12)
        gate = {"failures_ratio_max": 0.2, "receipts_ratio_min": 0.9}
        made.start("1.4.0", "50,100", approve=[100], gate=gate)
        deployment = model_of(made.opened.repository, "delay").deployments[0]
        reached = [one for one in made.devices if is_reached(deployment, NodeFacts(one.name, {}))]
        made.serve(reached[:4], "1.4.0")
        reached[4].sign("refused", made.releases["1.4.0"], code="model.too_slow", reason="median 11.8 ms <b>limit</b> 8 ms\x1b[31m")
        slot = {"target": made.digest("1.4.0"), "target_version": "1.4.0", "bytes_planned": 1000, "bytes_received": 700}
        made.say(reached[5], made.devices.index(reached[5]), state="fetching", **slot)
        until("the hub to know", lambda: made.facts() == {"serving": 4, "failed": 1, "heard": 6})
        until(
            "the report", lambda: b"fetching" in next(row.state for row in made.opened.store.counted_nodes() if row.node == reached[5].name)
        )
        yield made


@pytest.fixture(scope="module")
def as_role(half_way: Plant) -> Iterator[Callable[[str], Person]]:
    door, clients = Door(half_way.opened, LOOPBACK_NAMES), list[Any]()
    app = application(door)

    def signed_in(role: api_tokens.Role) -> Person:
        client = TestClient(app, base_url="http://localhost", raise_server_exceptions=False, follow_redirects=False)
        client.__enter__()
        clients.append(client)
        secret = half_way.link(role).partition("once=")[2]
        found = Person(client)
        assert found.send("/login", {"once": secret, "next": "/"}).status_code == 303
        return found

    yield signed_in
    for client in clients:
        client.__exit__(None, None, None)


def classes_of(page: str) -> dict[str, int]:
    found = re.findall(r'id="class-(\w+)".*?<strong>([\d,]+)</strong>', page, flags=re.DOTALL)
    return {name: int(number.replace(",", "")) for name, number in found}


def test_the_fleets_page_says_what_is_not_well_and_its_classes_add_up(as_role: Callable[[str], Person]) -> None:
    page = as_role("viewer").page("/")
    counts = classes_of(page)

    assert heading(page) == "Not all is well: 1 node failed"
    assert "<title>(1) plant: 1 node failed</title>" in page
    assert "icon-needs.svg" in page[: page.index("data-well")]
    assert list(counts) == ["serving", "moving", "waiting", "refused", "rolled_back", "unreachable", "expired"]
    assert (sum(counts.values()), counts["serving"], counts["refused"], counts["moving"], counts["waiting"]) == (12, 4, 1, 1, 6)
    assert "11 of 12 nodes serve what they should; 7 of those move or wait in 1 rollout" in text_of(page)
    assert "receipts, 4 of 6 needed" in text_of(page)
    assert "failures 1 of at most 1: one more halts it" in text_of(page)
    assert 'href="/nodes?where=state%3Drefused"' in page
    assert "delay 1.3.2 8, 1.4.0 4 12" in text_of(page)  # Who runs what, as a table before a first hour is over.


def test_a_rollouts_page_says_what_it_waits_for_and_why_nodes_failed(as_role: Callable[[str], Person]) -> None:
    page = as_role("viewer").page(PAGE)
    read = text_of(page)

    assert heading(page) == "delay 1.3.2 → 1.4.0: stage 1 of 2 waits for receipts, 4 of 6 needed"
    assert "Of the other 2 nodes of the stage, 1 moves and 1 failed. One more failure halts it." in read
    assert sum(classes_of(page).values()) == 12
    assert "receipts 4 at least 6 waits 4 of 6 nodes heard from serve it, 90% must" in read
    assert "failures 1 at most 1 holds, one more halts it" in read
    assert "model.too_slow median 11.8 ms <b>limit</b> 8 ms\\x1b[31m" in read
    assert "<b>limit</b>" not in page
    assert "6 approval" in read
    assert page.count('<svg class="cells"') == 2
    assert "Acting on it needs the role operator; you are viewer." in read
    assert f"{PAGE}/halt" not in page
    assert "<code>fleetcast rollout status delay --nodes</code>" in page
    assert '<noscript><meta http-equiv="refresh" content="30"></noscript>' in page


def test_a_screen_on_a_wall_goes_from_each_page_to_the_next(as_role: Callable[[str], Person]) -> None:
    viewer = as_role("viewer")
    for path in ("/", PAGE, "/drift"):
        page = viewer.page(f"{path}?wall=1")
        found = re.search(r'data-wall="([^"]*)"', page)
        assert found is not None, path
        assert json.loads(unescape(found[1])) == ["/", PAGE], path
        assert '<body class="wall">' in page
        assert 'class="wall"' not in viewer.page(path)
    assert viewer.get("/?wall=1&wall=1").status_code == 422


@pytest.mark.parametrize(
    ("action", "words"),
    [
        (
            "halt",
            "Halt delay 1.4.0? 4 nodes keep 1.4.0, 8 stay on what they serve (8 on 1.3.2). 1 of them has begun to fetch and will stop.",
        ),
        ("back", "Take 4 nodes back? Each goes back to what it served before: 4 to 1.3.2."),
        ("approve", "Approve stage 2? When stage 1 has passed, 6 nodes move to 1.4.0: about 0.60 MB"),
        ("retry", "tries once more. Their failures count again."),
    ],
)
def test_a_question_says_what_will_happen_and_to_how_many(as_role: Callable[[str], Person], action: str, words: str) -> None:
    page = as_role("operator").page(f"{PAGE}/{action}")

    assert words in text_of(page)
    assert f"fleetcast rollout {action} delay" in page
    assert page.index("autofocus") < page.index("<button class=")  # The safe choice has the focus.


def test_a_viewer_is_told_which_role_it_takes(as_role: Callable[[str], Person]) -> None:
    viewer = as_role("viewer")

    assert viewer.get(f"{PAGE}/halt").status_code == 403
    assert re.fullmatch(r"Halting needs the role operator\. You are viewer until \d+ \w+\.", heading(viewer.get(f"{PAGE}/halt").text))
    assert viewer.send(f"{PAGE}/halt", {}).status_code == 403


def test_a_question_that_does_not_fit_the_state_is_refused(as_role: Callable[[str], Person]) -> None:
    answer = as_role("operator").get(f"{PAGE}/resume")

    assert answer.status_code == 409
    assert "The rollout of delay is running, and only one that is halted can be resumed" in text_of(answer.text)


def test_what_there_is_not_is_said_so(as_role: Callable[[str], Person]) -> None:
    person = as_role("operator")

    for path in ("/models/nothing/deployments/default/rollouts", "/models/delay/deployments/x/rollouts/halt", f"{PAGE}/00000000"):
        assert person.get(path).status_code == 404, path


def test_without_a_reason_nothing_is_taken_back(as_role: Callable[[str], Person]) -> None:
    answer = as_role("operator").answer(f"{PAGE}/back")

    assert answer.status_code == 422
    assert "needs a reason" in text_of(answer.text)


def test_a_node_that_refused_says_what_was_measured_and_what_its_peers_made_of_it(
    half_way: Plant, as_role: Callable[[str], Person]
) -> None:
    deployment = model_of(half_way.opened.repository, "delay").deployments[0]
    refused = [one for one in half_way.devices if is_reached(deployment, NodeFacts(one.name, {}))][4].name
    page = as_role("viewer").page(f"/nodes/{refused}")
    text = text_of(page)

    assert heading(page) == f"{refused} refused delay 1.4.0, and serves 1.3.2 as before"
    assert f"<title>(1) {refused} refused</title>" in page
    assert "model.too_slow median 11.8 ms <b>limit</b> 8 ms\\x1b[31m" in text
    assert "4 nodes with the same processor passed" in text
    assert "look at what else runs on this one" in text
    assert "✕ tested" in text
    assert "Labelling and holding needs the role operator; you are viewer." in text


def test_models_say_how_many_nodes_serve_what_and_each_number_leads_to_them(as_role: Callable[[str], Person]) -> None:
    person = as_role("viewer")
    page = person.page("/models/delay")
    served = dict(re.findall(r'href="(/nodes\?serves=delay%40[\d.]+)">(\d+)</a>', page))

    assert heading(page) == "Of 12 nodes with delay, 4 serve 1.4.0 and 8 serve 1.3.2"
    assert served == {"/nodes?serves=delay%401.4.0": "4", "/nodes?serves=delay%401.3.2": "8"}
    for address, count in served.items():
        assert len(re.findall('<tr id="node-', person.page(address))) == int(count)
    decided = re.search(r'href="(/nodes\?deployment=[^"]+)">(\d+)</a>', page)
    assert decided is not None
    assert len(re.findall('<tr id="node-', person.page(decided[1]))) == int(decided[2]) == 12
    assert "1 rollout moves" in heading(person.page("/models"))


def test_nodes_that_wait_are_counted_by_what_they_wait_for(as_role: Callable[[str], Person]) -> None:
    person = as_role("viewer")
    page = person.page("/nodes")
    found = re.search(r'<a href="([^"]*waits=approval[^"]*)"[^>]*><b>approval</b><span>(\d+)</span>', page)

    assert found is not None, page
    assert len(re.findall('<tr id="node-', person.page(found[1].replace("&amp;", "&")))) == int(found[2])
    assert "refused 1.4.0: model.too_slow" in text_of(page)
    assert heading(page) == "12 nodes: 1 refused"
    for address, count in re.findall(r'<a(?: class="\w+")? href="([^"]+)">(\d+) (?:refused|move|moves|wait|serve)</a>', page):
        assert len(re.findall('<tr id="node-', person.page(address.replace("&amp;", "&")))) == int(count)


def test_bytes_of_today_add_up_over_the_classes_of_link(as_role: Callable[[str], Person]) -> None:
    person = as_role("viewer")
    page = person.page("/bytes?by=site")
    one = re.search(r'href="(/bytes\?[^"]*by=node[^"]*site=[^"]*)">1</a>', page)

    assert heading(page) == "<0.01 MB received of <0.01 planned today, 0 wasted"
    assert "By receipts and reports of 1 node" in text_of(page)
    assert one is not None, page
    only = person.page(one[1].replace("&amp;", "&"))
    assert only.count('<a href="/nodes/') == 1
    node = re.search('<a href="(/nodes/[^"]+)"', only)
    assert node is not None
    own = text_of(person.page(node[1]))
    assert re.search(r"Bytes today received of planned.* <0.01 of <0.01 all today <0.01 of <0.01", own), own
    others = [name for name in re.findall('<a href="(/nodes/[^"?]+)"', person.page("/nodes")) if name != node[1]]
    assert "It has fetched nothing today." in text_of(person.page(others[0]))


def test_a_rollout_is_halted_with_a_reason_and_a_late_form_sees_both_figures(half_way: Plant, as_role: Callable[[str], Person]) -> None:
    person, late = as_role("operator"), as_role("admin")
    form = hidden(late.page(f"{PAGE}/approve"))
    halting = {**hidden(person.page(f"{PAGE}/halt")), "why": "<i>too slow</i>"}
    halted, again, reopened = person.send(f"{PAGE}/halt", halting), person.send(f"{PAGE}/halt", halting), person.get(f"{PAGE}/halt")
    page = person.page(PAGE)
    stale = late.send(f"{PAGE}/approve", form)
    resumed = person.answer(f"{PAGE}/resume")

    assert (halted.status_code, halted.headers["location"]) == (303, PAGE)
    assert (again.status_code, reopened.status_code) == (409, 409)
    for one in (again, reopened):
        assert heading(one.text) == "The rollout of delay is halted, and only one that is running can be halted"
        assert re.search(r"You changed it last, at \d\d:\d\d: .*halted by shift-2", text_of(one.text)), one.text
        assert f'href="{PAGE}">To the rollout</a>' in one.text
    assert heading(page).endswith("is halted: halted by shift-2")
    assert stale.status_code == 412
    move = "4 nodes serve 1.4.0; 6 nodes move to 1.4.0"
    assert f"stage 1 of 2, halted, {move} now, you saw stage 1 of 2, running, {move}. You changed it last" in text_of(stale.text)
    assert hidden(stale.text)["etag"] != form["etag"]
    assert resumed.status_code == 303
    event = next(one for one in half_way.opened.store.changes(limit=20) if "halted by" in one.text)
    assert (event.actor, event.body["why"]) == ("shift-2", "<i>too slow</i>")


def test_an_approval_that_the_hub_does_not_answer_is_said_to_be_asked(
    half_way: Plant, as_role: Callable[[str], Person], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "WAIT_SECONDS", 0)
    answer = as_role("operator").answer(f"{PAGE}/approve")

    assert answer.status_code == 202
    assert "The hub has not answered yet" in heading(answer.text)
    until("the hub to answer", lambda: not half_way.opened.store.open_commands())


def test_nodes_are_labelled_held_and_forgotten(half_way: Plant, as_role: Callable[[str], Person]) -> None:
    admin = as_role("admin")
    asked = admin.page("/nodes/label?where=site%3Djfk")
    labelled = admin.answer("/nodes/label?where=site%3Djfk", label="ring=canary")
    wrong = admin.answer("/nodes/label?where=site%3Djfk", label="ring")
    nobody = admin.get("/nodes/label?where=site%3Djkf")
    held = admin.answer("/nodes/lga-01/hold/delay", why="has to stay")
    unnamed = admin.answer("/nodes/lga-04/forget", why="gone", name="lga-03")
    forgotten = admin.answer("/nodes/lga-04/forget", why="gone", name="lga-04")
    names = {one.name for one in model_of(half_way.opened.repository, "delay").deployments}

    assert "Label 4 nodes? 4 nodes match site=jfk: jfk-01, jfk-02, jfk-03 and 1 more." in text_of(asked)
    assert (labelled.status_code, wrong.status_code, nobody.status_code) == (303, 422, 422)
    assert "54" not in text_of(nobody.text)
    assert "4 match site=jfk" in text_of(nobody.text)
    assert (held.status_code, names) == (303, {"default", "hold-lga-01"})
    assert (unnamed.status_code, forgotten.status_code) == (422, 303)
    assert "lga-04" not in json.dumps([row.node for row in half_way.opened.store.counted_nodes()])


def walked(person: Person, begin: Sequence[str]) -> dict[str, str]:
    """Pages that can be reached, one of each shape of address."""
    found, shapes, left = dict[str, str](), set[str](), list(begin)
    while left:
        address = left.pop(0)
        parts = re.sub(r"(lga|jfk|ewr)-\d+|[0-9a-f]{8}|\d[\d.]*", "N", urlsplit(address).path), *sorted(parse_qs(urlsplit(address).query))
        if address in found or (str(parts) in shapes and address not in begin):
            continue
        shapes.add(str(parts))
        answer = person.get(address)
        if answer.status_code != 200 or "text/html" not in answer.headers["content-type"]:
            continue
        found[address] = answer.text
        left += [unescape(one) for one in re.findall(r'<a [^>]*href="(/[^"#]*)"', answer.text) if not one.startswith("/log")]
    return found


def counted_links(page: str) -> list[tuple[str, int]]:
    """Numbers that lead to lists of nodes."""
    found = []
    page = re.sub(r'<a [^>]*aria-current="true".*?</a>', "", page, flags=re.DOTALL)  # Chosen: it leads to all, as choosing it again does.
    for address, inner in re.findall(r'<a [^>]*href="(/nodes\?[^"]*)"[^>]*>(.*?)</a>', page, flags=re.DOTALL):
        shown = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", inner)).strip()
        number = re.search(r"<span>([\d,]+)</span>$", inner.strip()) or re.search(r" on ([\d,]+)$", shown)
        number = number or re.match(r"(?:All |For )?([\d,]+)(?![\d.])", shown)
        if number is not None and not re.search(r"[?&;](limit|more|cursor)=", address):
            found.append((unescape(address), int(number[1].replace(",", ""))))
    return found


def check_command(line: str, where: str) -> None:
    """Parse commands as the shell and the real tree of commands do."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=";")
    lexer.whitespace_split = True
    for is_end, group in groupby(lexer, lambda word: word == ";"):
        if is_end:
            continue
        found: click.Command = command
        context, (name, *rest) = None, group
        assert name == "fleetcast", (where, line)
        try:
            while True:
                context = found.make_context(name, rest, parent=context)
                left = [*context._protected_args, *context.args] if isinstance(found, click.Group) else []
                if not left:
                    break
                next_name, next_found, rest = found.resolve_command(context, left)
                assert next_found is not None, (where, line)
                name, found = str(next_name), next_found
        except click.UsageError as error:
            raise AssertionError((where, line, error.format_message())) from error


FOOT = re.compile(r'<div class="cli">([^<]*)<code>(fleetcast [^<]*)</code>')
BLANK = re.compile(r"\b[A-Z][A-Z_]+\b")


def feet(pages: dict[str, str]) -> Iterator[tuple[str, str, str, str]]:
    """Each page with the words of its foot and its command."""
    for address, page in pages.items():
        for words, line in FOOT.findall(page):
            yield address, page, unescape(words), unescape(line)


def printed(line: str, environment: dict[str, str]) -> str:
    """What the commands of a foot print. `check` is not run: it runs the model."""
    found = []
    for part in line.split("; "):
        words = shlex.split(part)[1:]
        if words[0] == "check":
            continue
        done = CliRunner().invoke(command, words, env=environment)
        assert done.exit_code in {0, 11}, (line, done.output)
        found.append(done.output)
    return "\n".join(found)


def rows_of(page: str) -> set[str]:
    """What the lists of a page name: nodes, changes, alerts, and releases, sites or links whose bytes are summed up."""
    shapes = (
        r'<tr id="node-([^"]+)"',
        r'<tr id="change-\d+"><td[^>]*>[^<]*<td class="any">.*?<td class="any">([^<]+)',
        r'<tr id="alert-\d+".*?<td class="any">(?:<a [^>]*>)?([^<]+)',
        r'<tr><td><a href="/(?:models/[^/]+/releases/|nodes/|nodes\?where=)[^"]+"><b>([^<]+)</b></a><td class="n">',
    )
    return {unescape(one) for shape in shapes for one in re.findall(shape, page)}


def regions(person: Person, stop: Callable[[dict[str, str]], bool], *, page: str = PAGE, names: str = "head,classes") -> dict[str, str]:
    """The regions that a page was sent, until they are as wanted."""
    found, kind, until_at = dict[str, str](), "", time.monotonic() + 30
    with person.client.stream("GET", "/live", params={"page": page, "regions": names}) as answer:
        assert answer.status_code == 200, answer.read()
        for line in answer.iter_lines():
            assert time.monotonic() < until_at, found
            kind = line.removeprefix("event: ") if line.startswith("event: ") else kind
            if line.startswith("data: ") and kind == "region":
                region = json.loads(line.removeprefix("data: "))
                found[region["name"]] = region["html"]
                if stop(found):
                    break
    return found


def test_regions_of_a_page_are_sent_as_they_change_and_no_others(half_way: Plant, as_role: Callable[[str], Person]) -> None:
    served = int(classes_of(as_role("viewer").page(PAGE))["serving"])
    with httpx.Client(base_url=half_way.url, timeout=30) as client:
        assert client.get("/live", params={"page": PAGE}).status_code == 303
        secret = half_way.link("viewer").partition("once=")[2]
        client.post("/login", data={"once": secret}, headers={"sec-fetch-site": "same-origin"})
        person = Person(client)
        first = regions(person, lambda found: len(found) == 2)
        half_way.serve([one for one in half_way.devices if one.name != "lga-04"], "1.4.0")
        later = regions(person, lambda found: classes_of(found.get("classes", "")).get("serving", served) != served)
        others = ("/nowhere", "/keys", "https://evil.example/", "/login", "")
        refused = [client.get("/live", params={"page": address, "regions": "head"}).status_code for address in others]

    assert set(first) == {"head", "classes"}
    assert set(later) <= {"head", "classes"}
    assert first["head"].startswith("<h1>delay 1.3.2 → 1.4.0: stage")
    assert refused == [404] * 5


def test_a_late_form_overwrites_no_label_that_somebody_set_meanwhile(half_way: Plant, as_role: Callable[[str], Person]) -> None:
    person, late = as_role("operator"), as_role("admin")
    path = "/nodes/label?where=node%3Dewr-01"
    form = hidden(late.page(path))
    first = person.answer(path, label="tier=x")
    over = late.send(path, {**form, "label": "tier=y"})
    twice = late.send(path, {**hidden(over.text), "label": "tier=z"})

    assert (first.status_code, over.status_code, twice.status_code) == (303, 412, 303)
    assert "ewr-01, on which the hub sets tier=x now, you saw ewr-01, on which the hub sets no label." in text_of(over.text)
    assert "You changed it last, at" in text_of(over.text)  # Both sign in as shift-2.


def test_a_node_is_held_on_what_the_question_named(half_way: Plant, as_role: Callable[[str], Person]) -> None:
    person, device = as_role("operator"), half_way.devices[0]
    path = f"/nodes/{device.name}/hold/delay"

    def serves(version: str) -> bool:
        return f"Hold {device.name} on {version}?" in text_of(person.page(path))

    half_way.serve([device], "1.4.0")
    until("it to serve 1.4.0", lambda: serves("1.4.0"))
    form = hidden(person.page(path))
    half_way.serve([device], "1.3.2")
    until("it to serve 1.3.2", lambda: serves("1.3.2"))
    late = person.send(path, form)

    assert late.status_code == 412
    assert f"{device.name} serves 1.3.2 by default now, you saw {device.name} serves 1.4.0 by default." in text_of(late.text)


def test_no_node_is_tried_again_that_the_question_did_not_name(half_way: Plant, as_role: Callable[[str], Person]) -> None:
    person = as_role("operator")
    one, other = half_way.devices[3:5]
    half_way.serve((one, other), "1.3.2")

    def fails(device: Device) -> bool:
        device.sign("refused", half_way.releases["1.4.0"], code="model.too_slow", reason="late")
        until("it to have failed", lambda: device.name in text_of(person.get(f"{PAGE}/retry").text))
        return True

    assert fails(one)
    before = hidden(person.page(f"{PAGE}/retry"))
    assert fails(other)
    late = person.send(f"{PAGE}/retry", before)

    assert late.status_code == 412
    assert re.search(rf"{one.name}.* failed now, you saw .*{one.name} failed", text_of(late.text))


def test_every_number_leads_to_its_rows_and_every_command_is_one(
    half_way: Plant, as_role: Callable[[str], Person], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLEETCAST_DIR", str(half_way.fleet.directory))
    token = api_tokens.make(half_way.opened, name="walks", role="admin", days=1)[1]
    over_api = {"FLEETCAST_HUB": half_way.url, "FLEETCAST_TOKEN": token}
    person = as_role("admin")
    served = rows_of(person.page("/nodes?serves=delay%401.4.0"))
    device = next(one for one in half_way.devices if one.name in served)
    device.sign("serving", half_way.releases["1.4.0"], evidence={"bytes_planned": 9_000_000, "bytes_received": 7_000_000})
    until("its bytes", lambda: "delay 1.4.0" in rows_of(person.page("/bytes?by=release")))
    pages = walked(
        person,
        (
            "/",
            "/bytes?by=node",
            "/bytes?by=site&release=delay%401.4.0",
            "/nodes?sort=last_seen&limit=20",
            "/audit?actor=shift-2",
            "/audit?actor=token%3Aci",
            *ASKED,
        ),
    )
    counts = {(address, number) for page in pages.values() for address, number in counted_links(page)}
    rows = {address: len(re.findall('<tr id="node-', person.page(address))) for address, _ in counts}

    assert {(address, rows[address]) for address, _ in counts} == counts
    assert len(counts) > 20
    assert any("deployment=delay%2Fhold-lga-01" in address for address in rows)
    for address, page in pages.items():
        for line in re.findall(r"<code>(fleetcast [^<]*)</code>", page):
            check_command(unescape(line), address)
    read = dict[str, int]()
    for address, page, words, line in feet(pages):
        is_question = '<form method="post"' in page
        assert bool(BLANK.search(line)) == (is_question and "with " in words), (address, words, line)
        if is_question:
            continue
        output = printed(line, over_api)
        listed = rows_of(page)
        assert {one for one in listed if one not in output.replace("@", " ")} == set(), (address, line, output)
        read[urlsplit(address).path] = read.get(urlsplit(address).path, 0) + len(listed)
        if page.find('<tr id="node-') > 0 and ", and " not in words and "limit" not in address:
            assert {one.name for one in half_way.devices if re.search(rf"^{one.name} ", output, re.M)} <= listed, (address, line)
    assert all(read[path] > 1 for path in ("/nodes", "/bytes", "/alerts", "/audit")), read
    for template in Path(rendering.__file__).parent.glob("templates/*.html"):
        for line in re.findall(r"<code>(fleetcast [^<]*)</code>", template.read_text()):
            check_command(re.sub(r"\{\{.*?\}\}", "x", line), template.name)


def test_a_class_in_a_deployment_is_that_of_its_own_model(half_way: Plant) -> None:
    seen = Snapshots().get(half_way.opened)
    worse = [replace(line, model="noise", found=replace(line.found, name="refused")) for line in seen.lines]
    both = Snapshot(seen.at, seen.seen, [*seen.lines, *worse])

    for name in ("serving", "refused"):
        mine = {line.node.name for line in seen.lines if (line.deployment, line.found.name) == ("default", name)}
        assert {one.node for one in listing(both, Asked(f"state={name}", deployment="delay/default")).places} == mine
    assert not listing(both, Asked("state=serving")).places
