"""Run the acts of the demonstration, in order."""

import os
import signal
import threading
import time
from collections import Counter
from typing import Any

import numpy as np

from deploy.demo import data
from deploy.demo.attacks import Stranger
from deploy.demo.claims import Claims, act, say
from deploy.demo.data import Floats, Trained
from deploy.demo.fleet import LINK_BYTES_PER_SECOND, Fleet, until
from deploy.demo.recorder import Recorder, row_patterns, search, value_patterns
from deploy.demo.traffic import Answer, Client, Steady, replay
from schemas import codec
from schemas.bundle import ModelBundle
from schemas.manifest import Manifest
from schemas.topics import Topics

AIRPORTS = ("EWR", "JFK", "LGA")
ALPHA = 0.01
ATTACKED_START = int(data.noon(302)) - 43200  # No site was asked about this day.
TOLERANCE = 1e-3  # Minutes; float32 sums of a forest against scikit-learn's float64.


class Story:
    """Hold the state of one run of the demonstration."""

    def __init__(self, fleet: Fleet, claims: Claims) -> None:
        self.fleet, self.claims = fleet, claims
        self.flights = data.flights()
        self.topics = Topics("flights")
        self.models: dict[str, Trained] = {}
        self.releases: dict[str, dict[str, Any]] = {}
        self.recorder: Recorder | None = None
        self.steady: Steady | None = None
        self.broker_port = 0

    def tell(self) -> None:
        """Run all acts."""
        self.make_fleet()
        self.first_release()
        self.february()
        self.second_release()
        self.by_force()
        self.what_crossed()

    def end(self) -> None:
        """Stop the clients and the servers."""
        if self.steady is not None:
            self.steady.stop()
        if self.recorder is not None:
            self.recorder.stop()

    # 1

    def make_fleet(self) -> None:
        """Make keys, a hub with its embedded broker, and six nodes."""
        act(1, "A fleet: keys, a hub with an embedded broker, six sites at three airports")
        passphrase = ["--passphrase-file", str(self.fleet.passphrase)]
        self.fleet.cli("init", str(self.fleet.directory), "--fleet", "flights", "--model", "delay", "--cohort-nodes-min", "6", *passphrase)
        with (self.fleet.directory / "fleet.toml").open("a") as settings:
            settings.write("settle_seconds = 3\nwindow_age_days_max = 36500\n")  # The rows are of 2013.
        say(
            "A cohort is normally shown from 20 nodes on, so that nobody stands out in it; for these six sites the minimum is lowered to 6."
        )
        ready = self.fleet.start_hub()
        say(f"Watch it at {self.fleet.watched_at()}")
        self.broker_port = int(str(ready["broker_url"]).rsplit(":", 1)[1])
        self.recorder = Recorder(self.broker_port)
        self.recorder.start()
        for airport in AIRPORTS:
            for number in (1, 2):
                site = self.fleet.add_site(f"{airport.lower()}-{number}", airport, self.broker_port)
                self.fleet.start_site(site)
        say(f"Every site's road to the broker carries at most {LINK_BYTES_PER_SECOND * 8 / 1e6:.1f} Mbit/s.")
        online = until(
            "six nodes", lambda: [n for n in self.fleet.nodes() if n["status"] == "online"][5:] and self.fleet.nodes(), seconds=60
        )
        self.claims.check("six node processes are connected and known to the hub", len(online) == 6, ", ".join(n["node"] for n in online))

    # 2

    def first_release(self) -> None:
        """Train on January, publish, roll out, compare."""
        act(2, "Release 1.0.0: a model of arrival delay, trained on January")
        january = self.flights[self.flights.month == 1]
        self.publish("1.0.0", january, trees=10)
        done = self.rollout("1.0.0", stages="100")
        self.claims.check(
            "the rollout of 1.0.0 is done", done.get("state") == "done", str({k: done.get(k) for k in ("state", "stage", "serving")})
        )
        self.everybody_serves("1.0.0")
        sample = data.rows(january.sample(200, random_state=1))
        worst, versions = 0.0, Counter[str]()
        for site in self.fleet.sites:
            answer = Client(site).infer(sample, event_time=data.noon(131))
            worst = max(worst, self.error_of(answer))
            versions[answer.version] += 1
        self.claims.check(
            "every site predicts what scikit-learn's own forest predicts",
            worst <= TOLERANCE and set(versions) == {"1.0.0"},
            f"largest difference over {len(self.fleet.sites)} sites and {len(sample)} flights: {worst:.1e} minutes",
        )

    def publish(self, version: str, frame: Any, *, trees: int) -> None:
        """Train and publish one version."""
        trained = data.train(frame, trees=trees, directory=self.fleet.directory.parent / "models", name=version)
        self.models[version] = trained
        self.releases[version] = self.fleet.cli(
            "publish",
            str(trained.onnx_path),
            *("--name", "delay", "--version", version),
            *("--reference", str(trained.reference_path), "--blocks", "day"),
            *("--signals", ",".join(data.FEATURES), "--window-seconds", "86400", "--probation-seconds", "3"),
            *("--calibrate-rows", "0"),  # All sites are online, and a month is too short to collect baselines and still meet the blizzard.
            *("--passphrase-file", str(self.fleet.passphrase)),
        )
        say(f"trained on {len(frame)} flights, signed and published: {trained.onnx_path.stat().st_size / 1e6:.1f} MB of ONNX")

    def rollout(self, version: str, *, stages: str) -> dict[str, Any]:
        """Roll out and wait for the end."""
        self.fleet.cli(
            "rollout", "start", f"delay@{version}", "--stages", stages, "--silent-seconds", "120", "--wait", "--timeout-seconds", "150"
        )
        found = self.fleet.cli("rollout", "status", "delay")
        row: dict[str, Any] = found[0] if isinstance(found, list) else found
        return row

    def everybody_serves(self, version: str) -> None:
        """Check that every node serves it, by signed receipts, not by what was sent."""
        digest = self.releases[version]["digest"]

        def serving() -> list[str]:
            return [n["node"] for n in self.fleet.nodes() for m in n["models"] if m["model"] == "delay" and m["serving_digest"] == digest]

        nodes = until(f"receipts for {version}", lambda: serving() if len(serving()) == 6 else None, seconds=60)
        self.claims.check(
            f"all six nodes have signed a receipt for serving {version}", len(nodes) == 6, f"release {digest[:16]}: {', '.join(nodes)}"
        )

    def error_of_all(self, answers: list[Answer]) -> float:
        """Return the largest error of many answers of one release."""
        inputs, outputs = np.concatenate([one.inputs for one in answers]), np.concatenate([one.outputs.ravel() for one in answers])
        return float(np.abs(self.models[answers[0].version].predict(inputs) - outputs).max())

    def error_of(self, answer: Answer) -> float:
        """Return how far an answer is from scikit-learn's for the release that the answer names."""
        return float(np.abs(self.models[answer.version].predict(answer.inputs) - answer.outputs).max())

    # 3

    def february(self) -> None:
        """Replay February by date, with one window per day."""
        act(3, "February, replayed by date through each site's own endpoint")
        frame = self.flights[self.flights.month == 2]
        sent = 0
        for date in sorted(frame.date.unique()):
            sent += replay(self.fleet.sites, self.day(int(date)), event_time=data.noon(int(date)))
        say(f"{sent} flights asked about; a window a day and site left the devices, each count with noise (epsilon 1 a record and window)")

        def tested() -> dict[int, Any] | None:
            found = {self.date_of(row["start"]): row for row in self.drifts()}
            return found if len([date for date in found if 201 <= date <= 228]) == 28 else None

        days = until("28 tested days", tested, seconds=60)
        alarms = sorted(date for date in range(201, 229) if days[date]["alarm"])
        named = {date: [s["name"] for s in days[date]["signals"] if s["p_adjusted"] < ALPHA] for date in alarms}
        self.claims.check(
            "the days before the blizzard raise no alarm", not [d for d in alarms if d < 208], f"alarms in February: {alarms}"
        )
        self.claims.check(
            "the blizzard of 8 and 9 February raises an alarm that names its signals",
            bool({208, 209} & set(alarms)) and all(named[date] for date in {208, 209} & set(alarms)),
            "; ".join(f"2013-02-0{date - 200}: {', '.join(named.get(date, ['no alarm']))}" for date in (208, 209)),
        )
        alerts = [e for e in self.events("alert") if e.get("alert", {}).get("kind") == "drift"]
        self.claims.check("the alarm reached the operator as an alert", bool(alerts), (alerts or [{"text": "none"}])[0].get("text", ""))

    def day(self, date: int) -> dict[str, list[Floats]]:
        """Return a date's flights by site: an airport's two sites take turns."""
        found: dict[str, list[Floats]] = {}
        for site in self.fleet.sites:
            mine = self.flights[(self.flights.date == date) & (self.flights.origin == site.airport)]
            inputs = data.rows(mine)[int(site.name[-1]) - 1 :: 2]
            found[site.name] = [inputs[at : at + 8] for at in range(0, len(inputs), 8)]
        return found

    def date_of(self, start: int) -> int:
        """Return a window's start as month and day."""
        moment = time.gmtime(start)
        return moment.tm_mon * 100 + moment.tm_mday

    def events(self, kind: str) -> list[dict[str, Any]]:
        """Return the events that the hub has logged so far."""
        return [event for event in self.fleet.cli("watch", "--history") if event.get("kind") == kind]

    def drifts(self) -> list[dict[str, Any]]:
        """Return every tested interval, as it was published on the insight topic."""
        import json

        assert self.recorder is not None
        return [json.loads(message.payload) for message in self.recorder.of("drift") if message.payload]

    # 4

    def second_release(self) -> None:
        """Retrain and roll out in stages, with accidents."""
        act(4, "Release 1.1.0, retrained, goes out in stages, with accidents; requests run all the while")
        frame = self.flights[self.flights.month.isin([1, 2])]
        march = data.rows(self.flights[self.flights.date == 301])
        self.steady = Steady(self.fleet.sites, march, data.noon(301))
        self.steady.start()
        self.publish("1.1.0", frame, trees=15)
        digest = str(self.releases["1.1.0"]["digest"])
        result: list[dict[str, Any]] = []
        waiter = threading.Thread(target=lambda: result.append(self.rollout("1.1.0", stages="34,100")))
        waiter.start()
        self.flip_bits("1.1.0")
        victim = until(
            "a transfer under way",
            lambda: next((s for s in self.fleet.sites if s.bytes_of(digest)["received"] > 300_000), None),
            seconds=60,
        )
        received = victim.bytes_of(digest)["received"]
        say(f"{victim.name} has {received} bytes of it: the broker is killed, and comes back with an empty memory")
        pid = int(self.ready()["broker_pid"])
        os.kill(pid, signal.SIGKILL)
        until("a new broker", lambda: int(self.ready().get("broker_pid") or pid) != pid, seconds=30)
        before = until(
            "the transfer to go on",
            lambda: next((s.bytes_of(digest) for s in [victim] if s.bytes_of(digest)["received"] > 500_000), None),
            seconds=60,
        )
        say(f"{victim.name} has {before['received']} of {before['planned']} bytes: its process gets kill -9, and is started again")
        assert victim.process is not None
        victim.process.kill()
        victim.process.wait()
        held = victim.bytes_of(digest)
        self.fleet.start_site(victim)
        waiter.join(200)
        self.claims.check(
            "the staged rollout of 1.1.0 is done in spite of both", bool(result) and result[0].get("state") == "done", str(result[:1])[:300]
        )
        self.everybody_serves("1.1.0")
        time.sleep(1)
        self.steady.stop()
        self.ledger(victim.name, digest, held)
        self.requests()

    def flip_bits(self, version: str) -> None:
        """Retain damaged payloads, as a stranger, where nodes will look for the last blocks of the release."""
        manifest = codec.decode(Manifest, self.manifest_bytes(version))
        stranger = Stranger(self.broker_port, self.topics)
        blocks = list(manifest.variants[0].files[0].blocks)[1:2]
        flipped = stranger.flip_blocks(blocks, self.fleet.directory / "blocks")
        say(f"a stranger has put {flipped} payload with a flipped bit on the broker, on the topic of a block that every node will want")
        stranger.leave()

    def manifest_bytes(self, version: str) -> bytes:
        """Return a manifest as it crossed the broker."""
        assert self.recorder is not None

        def found() -> bytes | None:
            for message in reversed(self.recorder.of("model") if self.recorder else []):
                for one in codec.decode(ModelBundle, message.payload).manifests if message.payload else ():
                    if one.version == version:
                        return bytes(one.document)
            return None

        document: bytes = until(f"the manifest of {version}", found, seconds=30)
        return document

    def ready(self) -> dict[str, Any]:
        """Return the hub's readiness report."""
        import json

        try:
            found: dict[str, Any] = json.loads((self.fleet.directory / "hub.ready").read_text())
        except (OSError, ValueError):
            return {}
        return found

    def ledger(self, name: str, digest: str, held: dict[str, int]) -> None:
        """Check the bytes, from each node's own disk."""
        books = {site.name: site.bytes_of(digest) for site in self.fleet.sites}
        self.claims.check(
            "every node's ledger adds up: planned = received + reused",
            all(book["planned"] == book["received"] + book["reused"] for book in books.values()),
            "; ".join(
                f"{site}: {book['planned']} = {book['received']} + {book['reused']}, wasted {book['wasted']}"
                for site, book in books.items()
            ),
        )
        after = books[name]
        self.claims.check(
            "what was on disk before kill -9 was not fetched again",
            held["received"] > 0 and after["received"] + after["reused"] == after["planned"],
            f"{name} held {held['received']} of {held['planned']} bytes when it was killed, "
            f"and fetched {after['received'] - held['received']} after",
        )

    def requests(self) -> None:
        """Check that no request failed and no answer mixed two releases."""
        assert self.steady is not None
        answers, failures = self.steady.answers, self.steady.failures
        versions = Counter(answer.version for answer in answers)
        self.claims.check(
            "no request failed while releases were switched, the broker died and a node was killed",
            not failures and len(answers) > 500,
            f"{len(answers)} requests, {len(failures)} failed, {self.steady.resent} sent again because their process was killed; "
            f"answers by release: {dict(versions)}" + (f"; first: {failures[0]}" if failures else ""),
        )
        worst = max((self.error_of_all([one for one in answers if one.version == version]) for version in versions), default=np.inf)
        self.claims.check(
            "every answer is wholly that of the release it names",
            worst <= TOLERANCE and len(versions) == 2,
            f"largest difference from scikit-learn's own answer for that release: {worst:.1e} minutes",
        )

    # 5

    def by_force(self) -> None:
        """Show what a stranger can put on the broker."""
        act(5, "Put on the broker by force")
        assert self.recorder is not None
        before = [(n["node"], [(m["model"], m["serving_digest"]) for m in n["models"]]) for n in self.fleet.nodes()]
        genuine = codec.decode(ModelBundle, self.recorder.of("model")[-1].payload)
        manifest = codec.decode(Manifest, self.manifest_bytes("1.1.0"))
        bins = sum(signal_.bins for signal_ in (manifest.baseline.signals if manifest.baseline else ()))
        stranger = Stranger(self.broker_port, self.topics)
        stranger.forge_release(genuine)
        for topic in (self.topics.trust, self.topics.trust_time):  # Nodes of this version read the second.
            stranger.replay(topic, next(one.payload for one in self.recorder.messages if one.topic == topic))
        stranger.absurd_window("delay", "nyc", bytes.fromhex(str(self.releases["1.1.0"]["digest"])), ATTACKED_START, bins)
        stranger.leave()
        expected = {
            "block.digest_mismatch": "a block with a flipped bit",
            "trust.signature": "a release signed by a stranger",
            "trust.rollback": "older signed metadata",
            "window.absurd": "a window of absurd counts",
        }
        for code, what in expected.items():
            seen = self.wait_for_refusal(code)
            self.claims.check(
                f"{what} is refused as {code}, and reported", bool(seen), (seen or [{"text": "not seen"}])[0].get("text", "")[:200]
            )
        touched = [row for row in self.drifts() if row["start"] == ATTACKED_START]
        after = [(n["node"], [(m["model"], m["serving_digest"]) for m in n["models"]]) for n in self.fleet.nodes()]
        self.claims.check(
            "and nothing else changed",
            before == after and not touched,
            f"all six serve what they served; intervals of 2 March that were counted: {len(touched)}",
        )

    def wait_for_refusal(self, code: str) -> list[dict[str, Any]]:
        """Wait until the hub has logged a refusal with this code."""

        def found() -> list[dict[str, Any]]:
            return [
                event for event in self.fleet.cli("watch", "--history") if code in (event.get("code"), event.get("alert", {}).get("code"))
            ]

        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            if seen := found():
                return seen
            time.sleep(0.5)
        return []

    # 6

    def what_crossed(self) -> None:
        """Check the recorder's evidence."""
        act(6, "What crossed the broker")
        assert self.recorder is not None
        self.recorder.stop()
        frame = self.flights[(self.flights.month == 2) | (self.flights.date == 301)]
        messages = self.recorder.messages
        sizes = Counter(
            {
                kind: sum(len(m.payload) for m in self.recorder.of(kind))
                for kind in ("block", "telemetry", "state", "receipt", "want", "insight")
            }
        )
        say("bytes recorded on `#`: " + ", ".join(f"{kind} {size}" for kind, size in sizes.most_common()))
        rows_seen = search(messages, row_patterns(frame))
        self.claims.check(
            "no row that a site was asked about is in any message",
            not rows_seen,
            f"{len(frame)} rows searched for in {len(messages)} messages, compressed ones unpacked",
        )
        ours = [m for kind in ("telemetry", "state", "receipt", "want") for m in self.recorder.of(kind)]
        values_seen = search(ours, value_patterns(frame))
        self.claims.check(
            "no single raw value is in any message that a node sent",
            not values_seen,
            f"{len(value_patterns(frame)) // 2} values searched for in {len(ours)} messages",
        )
        names = [site.name.encode() for site in self.fleet.sites]
        windows = self.recorder.of("telemetry")
        leaks = [m for m in windows if any(name in m.payload or name.decode() in m.topic for name in names)]
        median = int(np.median([len(m.payload) for m in windows])) if windows else 0
        self.claims.check(
            "no node id is in telemetry",
            bool(windows) and not leaks,
            f"{len(windows)} windows on topic and in payload; median {median} bytes",
        )
