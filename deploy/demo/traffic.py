"""Emulate the sites' own programs: they ask their local endpoint about flights, and keep the answers."""

import http.client
import json
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from deploy.demo.data import Floats
from deploy.demo.fleet import Site


@dataclass(frozen=True, slots=True)
class Answer:
    """Hold the answer to one request, and the release that gave it."""

    site: str
    version: str
    inputs: Floats
    outputs: Floats
    seconds: float


class Client:
    """Run one local program with one connection to its node."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._connection: http.client.HTTPConnection | None = None
        self.resent = 0  # Requests whose connection broke because the node's process was killed.

    def infer(self, inputs: Floats, *, event_time: float) -> Answer:
        """Ask once; a connection that breaks is opened again, because inference changes nothing."""
        body = json.dumps(
            {
                "inputs": [{"name": "X", "datatype": "FP32", "shape": list(inputs.shape), "data": inputs.ravel().tolist()}],
                "parameters": {"event_time": event_time},
            }
        )
        began = time.perf_counter()
        for attempt in range(2):
            try:
                status, reply = self._post(body)
                break
            except (OSError, http.client.HTTPException):
                self._connection = None
                if attempt:
                    raise
                self.resent += 1
        if status != 200:
            raise RuntimeError(f"{self._site.name} answered {status}: {reply[:200]!r}")
        answer = json.loads(reply)
        outputs = np.asarray(answer["outputs"][0]["data"], np.float32)
        return Answer(self._site.name, answer["model_version"], inputs, outputs, time.perf_counter() - began)

    def _post(self, body: str) -> tuple[int, bytes]:
        if self._connection is None:
            self._connection = http.client.HTTPConnection("127.0.0.1", self._site.port, timeout=60)
        self._connection.request("POST", "/v2/models/delay/infer", body, {"Content-Type": "application/json"})
        response = self._connection.getresponse()
        return response.status, response.read()


def replay(sites: Sequence[Site], batches: dict[str, list[Floats]], *, event_time: float) -> int:
    """Send each site its rows of one day, all sites at once; return the number of rows sent."""

    def send(site: Site) -> None:
        client = Client(site)
        for inputs in batches[site.name]:
            client.infer(inputs, event_time=event_time)

    at_once(sites, send)
    return sum(len(inputs) for site in sites for inputs in batches[site.name])


def at_once(sites: Sequence[Site], send: Callable[[Site], None]) -> None:
    """Do something at every site, all at the same time; raise the first error."""
    with ThreadPoolExecutor(len(sites)) as pool:
        for done in [pool.submit(send, site) for site in sites]:
            done.result()


@dataclass(slots=True)
class Steady:
    """Ask without a pause, one program per site, until stopped."""

    sites: Sequence[Site]
    inputs: Floats
    event_time: float
    answers: list[Answer] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    resent: int = 0
    _stop: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def start(self) -> None:
        """Start."""
        for number, site in enumerate(self.sites):
            thread = threading.Thread(target=self._ask, args=(site, number), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _ask(self, site: Site, number: int) -> None:
        client, rng = Client(site), np.random.default_rng(number)
        while not self._stop.is_set():
            inputs = self.inputs[rng.integers(0, len(self.inputs), int(rng.integers(1, 5)))]
            try:
                self.answers.append(client.infer(inputs, event_time=self.event_time))
            except Exception as error:  # Every failure is counted.
                self.failures.append(f"{site.name}: {error!r}")
            self._stop.wait(0.05)
        self.resent += client.resent

    def stop(self) -> None:
        """Stop."""
        self._stop.set()
        for thread in self._threads:
            thread.join(70)
