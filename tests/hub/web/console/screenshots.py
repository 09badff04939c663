"""Take the pictures of docs/images from consoles over hubs with real data: `make screenshots`; needs Debian's chromium.

Two scenes: the plant of the browser tests with a rollout half-way, of which a node refused, one went back and some fetch;
and days of real windows in which a signal has moved.
"""

import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from playwright.sync_api import sync_playwright

from hub.operations import console_sessions
from hub.operations.deployed import model_of
from hub.operations.opened_fleet import OpenedFleet
from hub.settings import load
from hub.web.server import Server
from schemas.deployments import is_reached
from schemas.limits import KIB
from schemas.selectors import NodeFacts
from tests.hub.drifted import Days
from tests.hub.hubs import until
from tests.hub.web.console.plant import Plant, plant

FOLDER: Final = Path(__file__).resolve().parents[4] / "docs" / "images"
BYTES_MAX: Final = 150 * KIB
CHROMIUM: Final = os.environ.get("CHROMIUM", "/usr/bin/chromium")
ROLLOUT: Final = "/models/delay/deployments/default/rollouts"
NODES: Final = 60


def half_way(made: Plant) -> str:
    """Bring a rollout half-way, and return the node that refused it."""
    for seed, version in enumerate(("1.3.2", "1.4.0")):
        made.publish(version, seed)
    made.start("1.3.2", "100")
    made.serve(made.devices, "1.3.2")
    until("all to serve it", lambda: made.facts().get("serving") == NODES)
    made.start("1.4.0", "10,50,100", approve=[100], gate={"failures_ratio_max": 0.1, "receipts_ratio_min": 0.9, "soak_seconds": 0})
    first = reached(made)
    made.serve(first, "1.4.0")
    until("stage 2 to begin", lambda: model_of(made.opened.repository, "delay").deployments[0].stage == 1)
    second = [one for one in reached(made) if one not in first]
    made.serve(second[:9], "1.4.0")
    second[9].sign("refused", made.releases["1.4.0"], code="model.too_slow", reason="median 11.8 ms, limit 8 ms")
    second[10].sign("rolled_back", made.releases["1.4.0"], code="probation.errors", reason="13 of 412 requests failed, limit 1 %")
    for device, share in zip(second[11:14], (0.3, 0.6, 0.8), strict=True):
        slot = {
            "target": made.digest("1.4.0"),
            "target_version": "1.4.0",
            "bytes_planned": 6_200_000,
            "bytes_received": int(6_200_000 * share),
        }
        made.say(device, made.devices.index(device), state="fetching", **slot)
    until("the hub to know", lambda: made.facts().get("failed") == 2 and made.facts().get("serving") == len(first) + 9)
    until("the reports", lambda: sum(b"fetching" in row.state for row in made.opened.store.counted_nodes()) == 3)
    return second[9].name


def reached(made: Plant) -> list[Any]:
    """Return the devices that the rollout has reached."""
    deployment = model_of(made.opened.repository, "delay").deployments[0]
    return [one for one in made.devices if is_reached(deployment, NodeFacts(one.name, {}))]


def drifted(folder: Path) -> OpenedFleet:
    """Return a fleet of which a signal is higher for three days, as tests/hub/web/console/test_drift_pages.py has it."""
    days = Days(folder)
    manifest = days.publish("1.0.0")
    days.pass_days(manifest, range(4))
    days.hear(manifest, 3, cohort="lga")
    days.pass_days(manifest, range(4, 7), shift=lambda day: 0.6)
    settings = load(days.directory).model_copy(update={"web_listen": "127.0.0.1:0"})
    return OpenedFleet(days.directory, settings, days.store, days.fleet.repository)


def take(browser: Any, link: str, url: str, shots: Sequence[tuple[str, str, str, int, int]]) -> None:
    """Take pictures: of each the name, the page, the scheme, the width and the greatest height."""
    for name, page_path, scheme, width, height in shots:
        context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme, reduced_motion="reduce")
        page = context.new_page()
        page.goto(link)
        page.click("main button.go")
        page.wait_for_url(f"{url}/")
        page.goto(url + page_path)
        page.wait_for_selector("#clock.on")
        time.sleep(0.5)  # What is drawn after the first beat.
        tall = min(height, page.evaluate("Math.ceil(document.documentElement.getBoundingClientRect().height)"))
        shot = FOLDER / f"{name}.png"
        page.screenshot(path=str(shot), clip={"x": 0, "y": 0, "width": width, "height": tall})
        print(f"{shot.relative_to(FOLDER.parents[1])}: {shot.stat().st_size / KIB:.0f} KiB")
        context.close()


def main() -> int:
    """Take all; 1 where one is too large."""
    FOLDER.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as running:
        browser = running.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        with plant(Path(folder) / "plant", nodes=NODES) as made:
            node = half_way(made)
            for shots in (
                ("console-fleet", "/", "light", 1280, 900),
                ("console-rollout", ROLLOUT, "light", 1280, 1100),
                ("console-rollout-390-dark", ROLLOUT, "dark", 390, 1400),
                ("console-node", f"/nodes/{node}", "light", 1280, 1000),
            ):
                take(browser, made.link("operator"), made.url, [shots])
        fleet = drifted(Path(folder) / "drift")
        server = Server(fleet)
        url = str(server.start())
        try:
            link = f"{url}/login?once={console_sessions.make_link(fleet, name='shift-2', role='operator')}"
            take(browser, link, url, [("console-drift-dark", "/drift/delay/1.0.0/nyc", "dark", 1280, 1100)])
        finally:
            server.stop()
        browser.close()
    large = [one.name for one in FOLDER.glob("console-*.png") if one.stat().st_size > BYTES_MAX]
    if large:
        print(f"larger than {BYTES_MAX // KIB} KiB: {', '.join(sorted(large))}", file=sys.stderr)
    return 1 if large else 0


if __name__ == "__main__":
    sys.exit(main())
