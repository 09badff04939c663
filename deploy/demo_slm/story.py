"""Run the acts: SmolLM2 is published, delivered over a link that breaks, activated by golden prompts, asked, and replaced under load."""

import json
import threading
import time
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import openai

from deploy.demo.claims import Claims, act, say
from deploy.demo.fleet import Fleet, Site, until
from deploy.demo_slm.road import DroppingRoad
from deploy.demo_slm.weights import changed, smollm2

BYTES_PER_SECOND = 2_500_000  # 20 Mbit/s: 98 MB take forty seconds, and the link breaks meanwhile.
DROP_SECONDS = 20.0
CONVERSATIONS = 2
MODEL = "smol"
GOLDEN = ({"prompt": "The capital of France is"}, {"prompt": "Water is made of hydrogen and"})  # The publisher's own runtime answers it.
FRANCE: list[Any] = [{"role": "user", "content": "What is the capital of France? Answer with one word."}]
RELEASE = """
name = "{model}"
version = "{version}"
model = "{path}"
licence = "Apache-2.0"
description = "SmolLM2-135M-Instruct, Q4_1"

[golden]
data = "golden.json"

[limits]
latency_ms_max = 60000
memory_bytes_max = 1500000000
probation_seconds = 5

[[parameters]]
name = "max_tokens"
goes_to = "runtime"
default = 8
min = 1
max = 512
"""


@dataclass
class Talkers:
    """Run clients that converse without a pause, in streams, and keep the answers."""

    port: int
    stop: threading.Event = field(default_factory=threading.Event)
    releases: list[frozenset[str | None]] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    threads: list[threading.Thread] = field(default_factory=list)

    def begin(self) -> None:
        """Start asking."""
        self.threads = [threading.Thread(target=self._talk, daemon=True) for _ in range(CONVERSATIONS)]
        for thread in self.threads:
            thread.start()

    def end(self) -> None:
        """Finish the conversations."""
        self.stop.set()
        for thread in self.threads:
            thread.join(120)

    def _talk(self) -> None:
        with openai.OpenAI(base_url=f"http://127.0.0.1:{self.port}/v1", api_key="none", max_retries=0, timeout=120) as client:
            while not self.stop.is_set():
                try:
                    stream = client.chat.completions.create(model=MODEL, messages=FRANCE, max_tokens=24, stream=True)
                    chunks = list(stream)
                    if not any(choice.finish_reason for chunk in chunks for choice in chunk.choices):
                        self.broken.append("a stream ended without its end")
                    self.releases.append(frozenset(chunk.system_fingerprint for chunk in chunks))
                except openai.OpenAIError as error:
                    self.broken.append(repr(error))


class Story:
    """Hold the state of one run."""

    def __init__(self, fleet: Fleet, claims: Claims) -> None:
        self.fleet, self.claims = fleet, claims
        self.road: DroppingRoad | None = None
        self.site: Site | None = None
        self.talkers: Talkers | None = None
        self.releases: dict[str, dict[str, Any]] = {}
        self.publishing: Future[None] | None = None  # Encoding 98 MB takes as long as the link does, so both run at once.

    def tell(self) -> None:
        """Run all acts."""
        self.make_fleet()
        self.deliver()
        self.ask()
        self.replace()

    def end(self) -> None:
        """Stop the clients and the link."""
        if self.talkers is not None:
            self.talkers.end()
        if self.road is not None:
            self.road.close()
        if self.publishing is not None:
            wait((self.publishing,), 120)

    def make_fleet(self) -> None:
        """Make keys, a hub with its embedded broker, and one node behind the link."""
        act(1, f"One device behind {BYTES_PER_SECOND * 8 / 1e6:.0f} Mbit/s that break every {DROP_SECONDS:.0f} seconds")
        secret = ["--passphrase-file", str(self.fleet.passphrase)]
        self.fleet.cli("init", str(self.fleet.directory), "--fleet", "flights", "--model", MODEL, *secret)
        ready = self.fleet.start_hub()
        broker_port = int(str(ready["broker_url"]).rsplit(":", 1)[1])
        self.road = DroppingRoad(broker_port, bytes_per_second=BYTES_PER_SECOND, drop_seconds=DROP_SECONDS)
        self.site = self.fleet.add_site("kiosk-1", "EWR", self.road.port)
        self.site.link.close()  # The kiosk's own link is the one that breaks.
        settings = self.site.directory / "node.toml"
        settings.write_text(settings.read_text().replace(str(self.site.link.port), str(self.road.port)).replace("500000", "4000000"))
        self.fleet.start_site(self.site)
        until("the node", lambda: [one for one in self.fleet.nodes() if one["status"] == "online"], seconds=60)

    def deliver(self) -> None:
        """Publish, roll out, and count what the breaks cost."""
        act(2, "SmolLM2-135M-Instruct: 98 MB of GGUF, published with golden prompts, delivered, activated")
        path = smollm2()
        assert self.road is not None
        self.publish("1.0.0", path)
        began, before = time.monotonic(), self.road.drops
        self.publishing = ThreadPoolExecutor(1).submit(self.publish, "1.1.0", changed(path, self.fleet.directory.parent))
        self.rollout("1.0.0")
        seconds, drops = time.monotonic() - began, self.road.drops - before
        ledger = self._site.bytes_of(self.releases["1.0.0"]["digest"])
        self.claims.check(
            "it is delivered and activated over a road that breaks every 20 seconds",
            drops >= 1 and self.served() == "1.0.0",
            f"{path.stat().st_size / 1e6:.0f} MB in {seconds:.0f} s, {drops} breaks",
        )
        self.claims.check(
            "each break costs at most what was in flight",
            ledger["wasted"] <= drops * 4_000_000,
            f"received {ledger['received']} of {ledger['planned']} planned bytes, {ledger['wasted']} of them twice",
        )

    def ask(self) -> None:
        """Ask through OpenAI's client, whole and streamed."""
        act(3, "Asked through OpenAI's own client")
        with openai.OpenAI(base_url=f"http://127.0.0.1:{self._site.port}/v1", api_key="none") as client:
            listed = [one.id for one in client.models.list()]
            whole = client.chat.completions.create(model=MODEL, messages=FRANCE, max_tokens=24, temperature=0)
            stream = client.chat.completions.create(model=MODEL, messages=FRANCE, max_tokens=24, temperature=0, stream=True)
            words = [chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices]
        said = whole.choices[0].message.content or ""
        self.claims.check("the model is listed and answers", listed == [MODEL] and "Paris" in said, f"{listed}: {said!r}")
        self.claims.check("a stream says the same, word by word", "".join(words) == said and len(words) > 2, f"{len(words)} chunks")

    def replace(self) -> None:
        """Roll out another release under load."""
        act(4, f"Replaced while {CONVERSATIONS} clients stream without a pause")
        self.talkers = Talkers(self._site.port)
        self.talkers.begin()
        until("the first answers", lambda: len(self.talkers.releases) >= 2 if self.talkers else False, seconds=60)
        assert self.publishing is not None
        self.publishing.result()
        self.rollout("1.1.0")
        fingerprints = {version: self.releases[version]["digest"][:16] for version in self.releases}
        until(
            "answers of the new release",
            lambda: frozenset((fingerprints["1.1.0"],)) in self.talkers.releases if self.talkers else False,
            seconds=90,
        )
        self.talkers.end()
        by_release = Counter(next(iter(one)) for one in self.talkers.releases if len(one) == 1)
        ledger = self._site.bytes_of(self.releases["1.1.0"]["digest"])
        self.claims.check(
            "no stream broke, and each was wholly of one release",
            not self.talkers.broken and all(len(one) == 1 for one in self.talkers.releases) and len(by_release) == 2,
            f"{len(self.talkers.releases)} streams, {len(self.talkers.broken)} broken; "
            f"{by_release[fingerprints['1.0.0']]} of 1.0.0 and {by_release[fingerprints['1.1.0']]} of 1.1.0 {self.talkers.broken[:1]}",
        )
        self.claims.check(
            "what the device had already was not sent again",
            ledger["received"] < 0.2 * ledger["planned"] + 4_000_000 or ledger["reused"] > 4 * ledger["received"],
            f"received {ledger['received']}, reused {ledger['reused']} bytes",
        )

    @property
    def _site(self) -> Site:
        assert self.site is not None
        return self.site

    def publish(self, version: str, path: Path) -> None:
        """Write a release file and golden prompts, and run `fleetcast publish`."""
        folder = self.fleet.directory.parent / "models"
        folder.mkdir(exist_ok=True)
        (folder / "golden.json").write_text(json.dumps({"text_agreement_min": 0.5, "prompts": GOLDEN}))
        release = folder / f"release-{version}.toml"
        release.write_text(RELEASE.format(model=MODEL, version=version, path=path))
        began = time.monotonic()
        self.releases[version] = self.fleet.cli("publish", str(release), "--passphrase-file", str(self.fleet.passphrase))
        say(f"published {version} in {time.monotonic() - began:.0f} s")

    def rollout(self, version: str) -> None:
        """Roll out and wait for the end."""
        release = f"{MODEL}@{version}"
        self.fleet.cli("rollout", "start", release, "--stages", "100", "--silent-seconds", "200", "--wait", "--timeout-seconds", "240")

    def served(self) -> str | None:
        """Return the version that the device's own clients see."""
        with openai.OpenAI(base_url=f"http://127.0.0.1:{self._site.port}/v1", api_key="none") as client:
            found = client.models.retrieve(MODEL).model_dump()
        version: str | None = found.get("version")
        return version
