"""The console in a real browser, over a hub that runs: Debian's chromium, driven by playwright. `make test-console`.

axe-core is not ours and is committed nowhere: `make test-console` installs it by npm, and AXE names the file.
"""

import json
import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hub.operations.deployed import model_of
from hub.web.console.pages import PAGES
from schemas.deployments import is_reached
from schemas.selectors import NodeFacts
from tests.hub.hubs import Device, until
from tests.hub.web.console.lines import Line
from tests.hub.web.console.plant import Plant, plant

pytestmark = pytest.mark.console
playwright = pytest.importorskip("playwright.sync_api")

CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")
AXE = os.environ.get("AXE", "")
ROLLOUT = "/models/delay/deployments/default/rollouts"
START = "/models/delay/releases/1.4.0/start"
PLACES = {
    "model": "delay",
    "deployment": "default",
    "node": "jfk-01",
    "version": "1.4.0",
}  # No stream was tested here: a stream's page is tested by itself.
EVENT_SECONDS_MAX = 2.0
ASKED_FOR = ("status of 404", "status of 409")  # Which a browser complains of: pages that are not there, and a form that is wrong.
SEEN: dict[str, float] = {}  # What was measured on the way, for tests/hub/web/console/browser.py.


@pytest.fixture(scope="module", autouse=True)
def seen() -> Iterator[None]:
    yield
    if where := os.environ.get("CONSOLE_SEEN"):
        Path(where).write_text(json.dumps(SEEN))


def addresses() -> list[str]:
    """An address of every page that can be looked at here."""
    found = []
    for page in PAGES:
        names = re.findall(r"{(\w+)(?::\w+)?}", page.path)
        if all(name in PLACES for name in names):
            found.append(re.sub(r"{(\w+)(?::\w+)?}", lambda name: PLACES[name[1]], page.path))
    return sorted(set(found))


@pytest.fixture(scope="module")
def at(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plant]:
    with plant(tmp_path_factory.mktemp("plant")) as made:
        for seed, version in enumerate(("1.3.2", "1.4.0")):
            made.publish(version, seed)
        made.start("1.3.2", "100")
        made.serve(made.devices, "1.3.2")
        until("all to serve it", lambda: made.facts().get("serving") == len(made.devices))
        made.start("1.4.0", "50,100", approve=[100], gate={"failures_ratio_max": 0.4, "receipts_ratio_min": 0.8})
        yield made


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as running:
        found = running.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture
def look(browser: Any, at: Plant) -> Iterator[Callable[..., Any]]:
    """A page of somebody who is signed in. What it asks of other hosts, and what it complains of, fails the test."""
    contexts, foreign, complaints = list[Any](), list[str](), list[str]()

    def looked(role: str = "operator", **more: Any) -> Any:
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **more})
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(15_000)
        page.on("request", lambda request: None if request.url.startswith((at.url, "data:")) else foreign.append(request.url))
        page.on(
            "console",
            lambda message: (
                complaints.append(message.text) if message.type == "error" and not any(code in message.text for code in ASKED_FOR) else None
            ),
        )
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(at.link(role))
        page.click("main button.go")
        page.wait_for_url(f"{at.url}/")
        return page

    yield looked
    for context in contexts:
        context.close()
    assert foreign == []
    assert complaints == []


def of_stage(at: Plant, number: int) -> list[Device]:
    """The devices that the stages up to this one reach."""
    deployment = model_of(at.opened.repository, "delay").deployments[0]
    return [one for one in at.devices if number > 1 or is_reached(deployment, NodeFacts(one.name, {}))]


def so(page: Any, expression: str) -> None:
    """Wait until something is so in the page. Playwright's own way evaluates texts in the page, which its policy forbids."""
    deadline = time.monotonic() + 20
    while not page.evaluate(expression):
        assert time.monotonic() < deadline, f"{expression}\nis not so: {page.title()!r}, {page.locator('h1').all_inner_texts()}"
        time.sleep(0.02)


def test_every_page_is_quiet_and_fits_on_wide_and_narrow_screens(look: Callable[..., Any], at: Plant) -> None:
    page = look("admin")
    for width in (1280, 1024, 820, 390):
        page.set_viewport_size({"width": width, "height": 844})
        for address in [*addresses(), START]:
            answer = page.goto(at.url + address)
            assert answer.status == 200, address
            assert page.evaluate("document.documentElement.scrollWidth") <= width, (address, width)
            assert page.locator("h1").count() == 1, address


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_serious_fault_on_any_page(look: Callable[..., Any], at: Plant, scheme: str) -> None:
    if not AXE:
        pytest.skip("AXE names no axe.min.js: run `make test-console`")
    page, found = look("admin", color_scheme=scheme, bypass_csp=True), list[str]()
    for address in [*addresses(), f"{ROLLOUT}/halt", START, "/keys/make", "/logout", "/nowhere"]:
        page.goto(at.url + address)
        page.evaluate(Path(AXE).read_text())
        result = page.evaluate("axe.run(document, { resultTypes: ['violations'] })")
        for fault in result["violations"]:
            if fault["impact"] in {"serious", "critical"}:
                found += [f"{address}: {fault['id']}: {node['html'][:120]}" for node in fault["nodes"][:3]]
    SEEN["axe_serious"] = SEEN.get("axe_serious", 0) + len(found)
    assert [one for one in found if not one.startswith("/nowhere: console")] == []


def test_a_stage_is_watched_approved_and_halted(look: Callable[..., Any], at: Plant) -> None:
    page, first = look(), of_stage(at, 1)
    page.goto(at.url + ROLLOUT)
    page.wait_for_selector("#clock.on")
    assert "stage 1 of 2 waits for receipts, 0 of 5 needed" in page.locator("h1").inner_text()

    took = []
    for number, device in enumerate(first[:3], start=1):
        began = time.monotonic()
        at.serve([device], "1.4.0")
        so(page, f"document.querySelector('#class-serving strong').textContent === '{number}'")
        took.append(time.monotonic() - began)
    SEEN["event_s"] = max(took)
    at.serve(first[3:], "1.4.0")
    so(page, "document.querySelector('h1').textContent.includes('approval')")
    assert page.title().startswith("(1) delay 1.4.0")
    assert "icon-needs" in page.locator("link[rel=icon]").get_attribute("href")

    page.click("text=Approve stage 2…")
    assert "Approve stage 2?" in page.locator("dialog h1").inner_text()
    assert page.evaluate("document.activeElement.textContent") == "Not yet"
    page.fill("dialog input[name=why]", "looked at it")
    page.click("dialog button.go")
    so(page, "document.querySelector('h1').textContent.includes('stage 2 of 2')")

    page.click("text=Halt…")
    page.click("dialog >> text=Leave it running")
    page.wait_for_selector("dialog", state="detached", timeout=5000)
    page.click("text=Halt…")
    page.click("dialog button.stop")
    so(page, "document.querySelector('h1').textContent.includes('is halted')")
    event = next(one for one in at.opened.store.changes(limit=5) if "approved" in one.text)
    assert (event.actor, event.body["why"]) == ("shift-2", "looked at it")
    assert max(took) <= EVENT_SECONDS_MAX, took


def test_the_keyboard_alone_reads_moves_asks_and_leaves(look: Callable[..., Any], at: Plant) -> None:
    page = look()
    press = page.keyboard.press
    page.wait_for_selector("#clock.on")
    press("?")
    page.wait_for_selector("#keys:popover-open")
    press("Escape")
    press("j")
    assert "delay" in page.evaluate("document.activeElement.textContent")
    press("Enter")
    page.wait_for_url(re.compile(r"/models/delay/"))
    page.wait_for_selector("#clock.on")
    for _ in range(30):
        press("Tab")
        if page.evaluate("document.activeElement.textContent") in {"Resume…", "Halt…"}:
            break
    press("Enter")
    page.wait_for_selector("dialog[open]")
    assert page.evaluate("document.activeElement.classList.contains('btn')")  # The safe choice.
    press("Escape")
    page.wait_for_selector("dialog", state="detached")
    assert page.evaluate("document.activeElement.textContent") in {"Resume…", "Halt…"}
    press(".")
    so(page, "document.getElementById('clock-text').textContent.startsWith('held')")
    press("g")
    press("f")
    page.wait_for_url(f"{at.url}/")


def test_keys_are_off_where_somebody_said_so(look: Callable[..., Any], at: Plant) -> None:
    page = look()
    page.click("text=Keys: press ?")
    page.check("#keys-off")
    page.click("#keys >> text=Close")
    page.goto(at.url + ROLLOUT)
    page.keyboard.press("?")

    assert page.locator("#keys:popover-open").count() == 0


def test_without_javascript_pages_and_forms_do_what_they_do_with_it(look: Callable[..., Any], at: Plant) -> None:
    page = look(java_script_enabled=False)
    page.click("text=delay")
    state = "halted" if "halted" in page.locator("h1").inner_text() else "running"
    if state == "running":
        page.click("text=Halt…")
        page.fill("input[name=why]", "by hand")
        page.click("main button.go")
    assert "is halted" in page.locator("h1").inner_text()
    page.click("text=Resume…")
    assert "Resume delay 1.4.0?" in page.locator("h1").inner_text()
    page.click("main button.go")
    assert "is halted" not in page.locator("h1").inner_text()
    page.set_viewport_size({"width": 390, "height": 844})
    assert page.locator("body").bounding_box()["width"] <= 390


def test_what_changes_does_not_take_the_focus_or_what_is_selected(look: Callable[..., Any], at: Plant) -> None:
    page = look()
    page.goto(at.url + ROLLOUT)
    page.wait_for_selector("#clock.on")
    page.focus("#class-serving")
    before = page.locator("#class-serving strong").inner_text()
    at.serve(at.devices, "1.4.0")
    so(page, "document.querySelector('h1').textContent.includes('is done')")

    assert page.evaluate("document.activeElement.id") == "class-serving"
    assert page.locator("#class-serving strong").inner_text() == before  # It is left alone while it has the focus,
    page.evaluate("document.activeElement.blur()")
    so(page, "document.querySelector('#class-serving strong').textContent === '12'")  # and follows when it has not.


def test_a_row_that_changed_is_marked_and_a_session_that_is_over_is_said(look: Callable[..., Any], at: Plant) -> None:
    page = look("admin")
    page.wait_for_selector("#clock.on")
    at.devices[0].sign("rolled_back", at.releases["1.4.0"], code="probation.errors", reason="13 of 412 requests failed")
    so(page, "document.title.startsWith('(1) plant')")
    assert page.locator("#alerts-count").inner_text() == "1"
    page.goto(f"{at.url}/logout")
    page.click("text=Sign out")
    page.wait_for_url(f"{at.url}/login")
    page.goto(at.url + ROLLOUT)
    assert page.url == f"{at.url}/login?next=%2Fmodels%2Fdelay%2Fdeployments%2Fdefault%2Frollouts"


def test_a_rollout_is_started_by_its_form_and_a_stage_moves(look: Callable[..., Any], at: Plant) -> None:
    at.publish("1.5.0", 2)
    page = look()
    page.goto(f"{at.url}/models/delay/releases/1.5.0")
    assert "nodes move to 1.5.0" in page.locator("#plan").inner_text()
    page.click("text=Roll out 1.5.0…")
    assert page.locator("h1").inner_text() == "Roll out delay 1.5.0?"
    assert page.evaluate("document.activeElement.classList.contains('btn')")  # The safe choice.
    page.fill("input[name=soak]", "0")
    page.fill("input[name=why]", "by the form")
    page.click("main button.go")
    page.wait_for_url(at.url + ROLLOUT)
    page.wait_for_selector("#clock.on")
    so(page, "document.querySelector('h1').textContent.includes('1.5.0: stage 1 of 2')")
    at.serve(of_stage(at, 1), "1.5.0")
    so(page, "document.querySelector('h1').textContent.includes('1.5.0: stage 2 of 2')")
    event = next(one for one in at.opened.store.changes(limit=20) if one.body.get("why") == "by the form")
    assert event.actor == "shift-2"


def test_the_form_that_starts_works_narrow_and_without_javascript(look: Callable[..., Any], at: Plant) -> None:
    page = look(java_script_enabled=False, viewport={"width": 390, "height": 844})
    page.goto(f"{at.url}/models/delay/releases/1.3.2")
    page.click("text=Roll out 1.3.2…")
    page.fill("input[name=stages]", "100,50")
    page.fill("input[name=approve]", "50")
    page.click("main button.go")

    assert "must rise and end at 100" in page.locator("[role=alert]").inner_text()
    assert page.locator("input[name=approve]").input_value() == "50"
    assert page.locator("body").bounding_box()["width"] <= 390
    for field in page.locator("main input:not([type=hidden]):visible").all():
        assert field.bounding_box()["x"] + field.bounding_box()["width"] <= 390


def test_a_screen_on_a_wall_shows_one_page_after_another_without_a_bar(browser: Any, at: Plant) -> None:
    context = browser.new_context()
    page = context.new_page()
    page.clock.install()
    page.goto(at.link("viewer"))
    page.click("main button.go")
    page.wait_for_url(f"{at.url}/")
    page.goto(f"{at.url}/?wall=1")

    assert not page.locator("header.bar").is_visible()
    assert page.evaluate("getComputedStyle(document.querySelector('h1')).fontSize") == "28px"
    for address in (ROLLOUT, "/", ROLLOUT):
        page.clock.fast_forward(30_000)
        page.wait_for_url(f"{at.url}{address}?wall=1")
    context.close()


def test_a_page_that_hears_nothing_says_since_when_and_follows_again(browser: Any, at: Plant) -> None:
    with Line(at.url) as line:
        context = browser.new_context()
        page = context.new_page()
        page.clock.install()
        page.goto(at.link("viewer").replace(at.url, line.url))
        page.click("main button.go")
        page.wait_for_url(f"{line.url}/")
        page.goto(f"{line.url}/?wall=1")
        page.wait_for_selector("#clock.on", state="attached")
        line.cut()
        page.clock.fast_forward(26_000)
        so(page, "document.body.classList.contains('stale')")
        stale = page.locator("#said").inner_text()

        assert re.match(r"Stale since \d\d:\d\d:\d\d: the hub does not answer\. What you see is of then\.", stale), stale
        assert page.locator("#said").bounding_box()["height"] > 20  # It is seen, on a wall too.
        assert page.locator("#clock-text").text_content().startswith("stale since ")
        line.mend()
        so(page, "!document.body.classList.contains('stale')")
        assert page.locator("#said").text_content() == ""
        context.close()


def test_a_page_that_finds_no_room_to_be_followed_is_loaded_anew(browser: Any, at: Plant) -> None:
    context, crowded = browser.new_context(), True
    page = context.new_page()
    page.clock.install()
    page.route("**/live?*", lambda route: route.fulfill(status=429) if crowded else route.continue_())
    page.goto(at.link("viewer"))
    page.click("main button.go")
    page.wait_for_url(f"{at.url}/")
    so(page, "document.getElementById('clock-text').textContent.startsWith('each half minute, ')")

    assert page.locator("#said").inner_text() == "The hub follows no more pages: this one is loaded anew each half minute."
    with page.expect_response(lambda answer: answer.request.headers.get("x-fleetcast-look") == "no"):
        page.clock.fast_forward(31_000)
    so(page, "document.getElementById('clock-text').textContent.startsWith('each half minute, ')")
    assert not page.evaluate("document.body.classList.contains('stale')")
    crowded = False
    page.clock.fast_forward(31_000)
    so(page, "document.getElementById('clock-text').textContent.startsWith('live, ')")
    assert page.locator("#said").text_content() == ""
    context.close()
