"""What the console and the API of a hub cost at ten thousand nodes: a seeded database, served as a hub serves it, asked over HTTP."""

import contextlib
import re
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import httpx

from bench.figures import Figure, median, quantile
from hub.operations import api_tokens
from hub.operations.opened_fleet import OpenedFleet
from hub.web.server import Server
from tests.hub.cli.fleets import make
from tests.hub.web.console.crowd import Seen, crowded, running
from tests.hub.web.fleets import opened
from tools import seed_fleet
from tools.seed_fleet import Plan

NODES = 10_000
RATE = 20  # Requests a second.
SECONDS = 15
ROUNDS = 10
CONSOLES, DIFFERENT = 1000, 60  # Pages open at one time.
DESCRIPTORS = 8192  # That the hub may open beside them.
PAGES = (
    "/",
    "/models",
    "/models/m",
    "/models/m/releases/1.1.0",
    "/nodes",
    "/nodes?where=site%3Dsite-001",
    "/nodes?where=state%3Dserving&sort=-last_seen&limit=200",
    "/nodes/node-00007",
    "/drift",
    "/bytes",
    "/alerts",
    "/audit",
)
ORIGIN = {"sec-fetch-site": "same-origin"}


def measure() -> list[Figure]:
    """Serve the fleet, then ask the nodes of the API at a rate, and the console's pages one after another."""
    with tempfile.TemporaryDirectory(prefix="fleetcast-console-") as folder, _served(Path(folder)) as (fleet, url):
        token = api_tokens.make(fleet, name="bench", role="viewer", days=1)[1]
        with httpx.Client(base_url=url, timeout=60) as client:
            assert client.post("/login", data={"token": token}, headers=ORIGIN).status_code == 303
            first = client.get("/")
            kib = (len(first.content) + sum(len(client.get(one).content) for one in _loaded(first.text))) / 1024
            pages = _pages(client)
            latency = _at_a_rate(url, token)
    seen = _crowd()
    print(f"console: {seen}", file=sys.stderr)
    worst = max(pages, key=lambda one: pages[one])
    print(f"console: {', '.join(f'{one} {ms:.0f} ms' for one, ms in pages.items())}", file=sys.stderr)
    return [
        Figure("api.p99_ms.10000", round(quantile(latency, 0.99), 1), f"ms, nodes of the API, {RATE} requests a second", "", "", None),
        Figure(
            "console.first_page_kib", round(kib, 1), "KiB, the fleet's page with all that it loads, uncompressed", "at most 100", "", None
        ),
        Figure(
            "console.server_ms.10000",
            round(pages[worst], 1),
            f"ms, the slowest page ({worst}), median of {ROUNDS}",
            "at most 100",
            "",
            None,
        ),
        *_figures_of(seen),
    ]


def _figures_of(seen: Seen) -> list[Figure]:
    return [
        Figure(
            f"console.event_s.{CONSOLES}",
            round(seen.event_s, 2),
            f"s, receipt to its region of a rollout's page, worst of 2, with {CONSOLES} pages open, {DIFFERENT} of them different",
            "at most 2",
            "",
            None,
        ),
        Figure(
            f"console.answer_s.{CONSOLES}",
            round(seen.answer_s, 2),
            "s until a queued command is obeyed, worst of 2, beside the same",
            "at most 2",
            "",
            None,
        ),
        Figure(
            f"console.rss_mib.{CONSOLES}",
            round(seen.rss_mib),
            "MiB of the hub at most, beside the same, 100 of which never read",
            "",
            "without them, MiB",
            round(seen.idle_mib),
        ),
        Figure(f"console.receipt_cpu_s.{CONSOLES}", round(seen.cpu_s, 2), "s of CPU for a receipt, beside the same", "", "", None),
    ]


def _crowd() -> Seen:
    """Open a thousand pages of a real hub; it raises where a file of the hub's own is lost to them."""
    with tempfile.TemporaryDirectory(prefix="fleetcast-crowd-") as folder, running(Path(folder), descriptors=DESCRIPTORS) as hub:
        return crowded(hub, pages=CONSOLES, different=DIFFERENT, never_read=100, come_and_go=50)


@contextlib.contextmanager
def _served(folder: Path) -> Iterator[tuple[OpenedFleet, str]]:
    made = make(folder, "m")
    for number in range(2):
        made.publish_as(f"1.{number}.0", made.folder / "good.onnx")
    seed_fleet.seed(
        made.fleet / "hub.sqlite", seed_fleet.released(made.fleet), Plan(nodes=NODES, days=1), now=int(datetime.now(UTC).timestamp())
    )
    fleet = opened(made)
    server = Server(fleet)
    try:
        yield fleet, str(server.start())
    finally:
        server.stop()


def _loaded(page: str) -> list[str]:
    return re.findall(r'(?:href|src)="(/(?:console|icon)[\w.-]+\?[0-9a-f]+)"', page)


def _pages(client: httpx.Client) -> dict[str, float]:
    found = {}
    for address in PAGES:
        took = []
        for _ in range(ROUNDS):
            began = time.perf_counter()
            answer = client.get(address)
            took.append(1000 * (time.perf_counter() - began))
            assert answer.status_code == 200, answer.text
            time.sleep(0.3)
        found[address] = median(took)
    return found


def _at_a_rate(url: str, token: str) -> list[float]:
    """Return how long each request took that was sent at its time, whether those before it were answered or not."""
    took, threads = list[float](), list[threading.Thread]()
    client = httpx.Client(base_url=f"{url}/api/v1", timeout=60, headers={"authorization": f"Bearer {token}"})

    def ask(due: float) -> None:
        answer = client.get("/nodes?limit=50&sort=state")
        assert answer.status_code == 200
        took.append(1000 * (time.perf_counter() - due))

    began = time.perf_counter()
    for number in range(RATE * SECONDS):
        due = began + number / RATE
        time.sleep(max(0.0, due - time.perf_counter()))
        threads.append(threading.Thread(target=ask, args=(due,)))
        threads[-1].start()
    for one in threads:
        one.join()
    client.close()
    return took
