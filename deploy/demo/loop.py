"""Close the loop on real input: `make demo-loop`. Drift is found and reported, a retrained model is published and rolled out; all checked.

Six sites at three airports serve a model of the winter. April is ordinary. At the end of May the pace of flights has changed; no single day
raises an alarm, but the days together do. No person acts: the hub runs the operator's program, and the fleet comes to serve its result.
"""

import base64
import hashlib
import hmac
import json
import os
import subprocess
import sys
import threading
import time
from datetime import date, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from deploy.demo import data, summer
from deploy.demo.claims import Claims, act, say
from deploy.demo.fleet import BIN, Fleet, Site, until
from deploy.demo.screen import screen
from deploy.demo.telling import run
from deploy.demo.traffic import Answer, Client, at_once
from hub.core.drift.shift_size import in_short

CHECKOUT = Path(__file__).parents[2]
DIRECTORY = Path(".demo-loop").resolve()
AIRPORTS = ("EWR", "JFK", "LGA")
WINTER, ORDINARY = (101, 331), (date(2013, 4, 1), 10)
CHANGE, CHANGE_DAYS_MAX = date(2013, 5, 25), 20
AFTER_DAYS = 8
DRIFTS = 11  # Exit code of `fleetcast drift` while an alarm lasts.
SECRET = "a secret of at least 24 characters"
SIZE = ("size", "size_low", "size_high", "size_unit")  # Keys of `fleetcast drift --json`.
BETTER_SHARE = 0.95  # Share of the old release's error below which the new one counts as better.


class Receiver:
    """Receive webhooks: check every signature, and confirm."""

    def __init__(self) -> None:
        self.genuine: list[dict[str, Any]] = []
        self.forged = 0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                content = f"{self.headers['webhook-id']}.{self.headers['webhook-timestamp']}.".encode() + body
                mac = base64.b64encode(hmac.new(SECRET.encode(), content, hashlib.sha256).digest()).decode()
                if f"v1,{mac}" == self.headers["webhook-signature"]:
                    outer.genuine.append({**json.loads(body), "id": self.headers["webhook-id"]})
                else:
                    outer.forged += 1
                self.send_response(204)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                return

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/alerts"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        """Stop the server."""
        self._server.shutdown()


class Loop:
    """Hold the story's state."""

    def __init__(self, fleet: Fleet, claims: Claims) -> None:
        self.fleet, self.claims, self.receiver = fleet, claims, Receiver()
        self.flights = summer.flights()
        self.answers: dict[int, list[tuple[pd.DataFrame, Answer]]] = {}

    def tell(self) -> None:
        """Run all acts."""
        self.winter()
        self.ordinary_days()
        self.change()
        self.retrained()
        self.afterwards()

    # 1

    def winter(self) -> None:
        """Start a fleet that serves the winter's model, with a webhook and an on_drift program."""
        act(1, "A fleet of six sites serves 1.0.0, trained on January to March")
        passphrase = ["--passphrase-file", str(self.fleet.passphrase)]
        self.fleet.cli("init", str(self.fleet.directory), "--fleet", "flights", "--model", "delay", "--cohort-nodes-min", "6", *passphrase)
        (self.fleet.directory / "webhook.secret").write_text(SECRET + "\n")
        warehouse = DIRECTORY / "warehouse.parquet"
        self.flights.to_parquet(warehouse, index=False)
        with (self.fleet.directory / "fleet.toml").open("a") as settings:
            settings.write(
                "settle_seconds = 2\nwindow_age_days_max = 36500\n"  # The rows are of 2013.
                "alpha = 0.0001\n\n"  # By default one ordinary day in a hundred may raise an alarm by chance.
                f'[[webhooks]]\nname = "pager"\nurl = "{self.receiver.url}"\nsecret_file = "webhook.secret"\n\n'
                f'[[on_drift]]\nname = "retrain"\nmodels = ["delay"]\ngather_seconds = 1\ntimeout_seconds = 240\n'
                f"command = {json.dumps([sys.executable, '-W', 'ignore', '-m', 'deploy.demo.retrain'])}\n"
                "[on_drift.environment]\n"
                f"PYTHONPATH = {json.dumps(str(CHECKOUT))}\nWAREHOUSE = {json.dumps(str(warehouse))}\n"
                f"FLEETCAST_PASSPHRASE_FILE = {json.dumps(str(self.fleet.passphrase))}\n"
            )
        ready = self.fleet.start_hub()
        say(f"Watch it at {self.fleet.watched_at()}")
        port = int(str(ready["broker_url"]).rsplit(":", 1)[1])
        for airport in AIRPORTS:
            for number in (1, 2):
                self.fleet.start_site(self.fleet.add_site(f"{airport.lower()}-{number}", airport, port))
        frame = self.between(*WINTER)
        self.old, model, reference = summer.train(frame, DIRECTORY / "models", "winter")
        self.fleet.cli(*summer.publish_arguments(model, reference, "1.0.0"), *passphrase)
        until("six nodes", lambda: len([n for n in self.fleet.nodes() if n["status"] == "online"]) == 6, seconds=60)
        self.fleet.cli("rollout", "start", "delay@1.0.0", "--silent-seconds", "120", "--wait", "--timeout-seconds", "150")
        self.claims.check("all six sites serve 1.0.0", self.serving("1.0.0") == 6, f"trained on {len(frame)} flights")

    def serving(self, version: str) -> int:
        """Return how many nodes have signed that they serve it."""
        return sum(
            m["model"] == "delay" and m.get("serving_version", m.get("version")) == version for n in self.fleet.nodes() for m in n["models"]
        )

    def between(self, first: int, last: int) -> pd.DataFrame:
        """Return flights of these dates."""
        return self.flights[(self.flights.date >= first) & (self.flights.date <= last)]

    # 2

    def ordinary_days(self) -> None:
        """Replay April."""
        begin, count = ORDINARY
        act(2, f"{count} ordinary days of April")
        for number in range(count):
            self.replay(begin + timedelta(days=number))
        self.tested(begin, count)
        code, rows = self.drift()
        self.claims.check(
            "ordinary days raise no alarm",
            code == 0 and not self.receiver.genuine,
            f"fleetcast drift ends with {code}: {self.standing(rows)}",
        )

    def replay(self, day: date) -> None:
        """Send each site's flights of a day to its own endpoint."""
        number = day.month * 100 + day.day
        todays = self.flights[self.flights.date == number]

        def ask(site: Site) -> None:
            mine = todays[todays.origin == site.airport].iloc[int(site.name[-1]) - 1 :: 2]
            client = Client(site)
            for at in range(0, len(mine), 16):
                part = mine.iloc[at : at + 16]
                self.answers.setdefault(number, []).append((part, client.infer(summer.rows(part), event_time=data.noon(number))))

        at_once(self.fleet.sites, ask)

    def tested(self, begin: date, count: int, *, version: str = "1.0.0") -> None:
        """Wait until the hub has tested the last of these days."""
        newest = (begin + timedelta(days=count - 1)).isoformat()

        def there() -> bool:
            return any(row["version"] == version and row["newest"].startswith(newest) for row in self.drift()[1])

        until(f"the test of {newest}", there, seconds=60)

    def drift(self) -> tuple[int, list[dict[str, Any]]]:
        """Return the output of `fleetcast drift --json`, with its exit code."""
        done = subprocess.run(
            [str(BIN / "fleetcast"), "drift", "--json"],
            capture_output=True,
            text=True,
            env={**os.environ, "FLEETCAST_DIR": str(self.fleet.directory)},
            check=False,
        )
        return done.returncode, json.loads(done.stdout)

    def standing(self, rows: list[dict[str, Any]]) -> str:
        """Return the rows of `fleetcast drift` in words."""
        return "; ".join(f"{row['version']} {row['state']}, evidence {row['evidence']} of {row['evidence_needed']}" for row in rows)

    # 3

    def change(self) -> None:
        """Replay the end of May, until the hub finds the change."""
        act(3, "The end of May, a day at a time, until the hub finds that something has changed")
        day = CHANGE
        for number in range(CHANGE_DAYS_MAX):
            day = CHANGE + timedelta(days=number)
            self.replay(day)
            self.tested(day, 1)
            if self.receiver_has("drift"):
                break
        self.found_on = day
        code, rows = self.drift()
        lasting = [row for row in rows if row["alarm"]]
        self.claims.check(
            "the change is found, and names the pace",
            code == DRIFTS and bool(lasting) and "pace" in [one["name"] for one in lasting[0]["signals"]],
            f"found with {day:%d %B}; fleetcast drift ends with {code}: "
            + "; ".join(
                f"{one['name']} {one['direction']} {in_short(*(one[name] for name in SIZE))} since {row['since']}"
                for row in lasting
                for one in row["signals"]
            ),
        )
        alerts = [one for one in self.receiver.genuine if one["kind"] == "drift"]
        self.claims.check(
            "the webhook got one alert with a good signature",
            len(alerts) == 1 and self.receiver.forged == 0,
            f"{(alerts or [{'text': 'none'}])[0]['text']}",
        )
        picture = DIRECTORY / "drift.svg"
        self.fleet.cli("drift", "explain", "delay", "--svg", str(picture))
        self.claims.check("fleetcast drift explain draws it", picture.stat().st_size > 1000, str(picture))
        commands = (["fleetcast", "nodes"], ["fleetcast", "drift"], ["fleetcast", "drift", "explain", "delay", "--signal", "pace"])
        screen(commands, self.fleet.directory, DIRECTORY / "screen.svg", title="fleetcast")

    def receiver_has(self, kind: str) -> bool:
        """Check that the webhook is called within a moment of the day's test."""
        deadline = time.monotonic() + 1.5
        while time.monotonic() < deadline:
            if any(one["kind"] == kind for one in self.receiver.genuine):
                return True
            time.sleep(0.1)
        return False

    # 4

    def retrained(self) -> None:
        """Follow what the hub's on_drift does, and the rollout that it starts."""
        act(4, "The hub runs the operator's program: it trains, publishes and starts a rollout")
        event = until("the program's end", lambda: next(iter(self.events("hook")), None), seconds=200)
        self.claims.check(
            "on_drift ran once, with the evidence, and its end is an event",
            event.get("exit_code") == 0 and event.get("outcome") == "ended",
            " / ".join(str(event.get("log", "")).strip().splitlines()[:2])
            + f"; exit code {event.get('exit_code')}, {event.get('seconds')} s",
        )
        day = self.found_on

        def over() -> Any:
            found = self.fleet.cli("rollout", "status", "delay")[0]
            return found if found["version"] == "1.1.0" and found["state"] in {"done", "halted"} else None

        row = over()
        while row is None and day < self.found_on + timedelta(days=30):
            day += timedelta(days=1)
            self.replay(day)  # The fleet keeps working while the release is rolled out.
            row = over()
        self.resumed = day
        row = row or until("the rollout's end", over, seconds=90)
        texts = [one["text"] for one in self.events("rollout") if "1.1.0" in one["text"]]
        self.claims.check(
            "the canary's gate held, and 1.1.0 went to all, though the drift lasted",
            row["state"] == "done" and any("from 34 % to 100 %" in text for text in texts) and self.serving("1.1.0") == 6,
            "; ".join(texts),
        )

    def events(self, kind: str) -> list[dict[str, Any]]:
        """Return the events that the hub has logged so far."""
        return [event for event in self.fleet.cli("watch", "--history") if event.get("kind") == kind]

    # 5

    def afterwards(self) -> None:
        """Replay the days after, with the new release."""
        act(5, f"{AFTER_DAYS} more days, served by 1.1.0")
        begin = self.resumed + timedelta(days=1)
        for number in range(AFTER_DAYS):
            self.replay(begin + timedelta(days=number))
        self.tested(begin, AFTER_DAYS, version="1.1.0")
        code, rows = self.drift()
        self.claims.check(
            "the retrained release does not drift, and the old one's alarm no longer counts",
            code == 0 and {row["version"]: row["state"] for row in rows} == {"1.0.0": "left", "1.1.0": "quiet"},
            f"fleetcast drift ends with {code}: {self.standing(rows)}",
        )
        pairs = [one for number in range(AFTER_DAYS) for one in self.answers[_number(begin + timedelta(days=number))]]
        frame = pd.concat([part for part, _ in pairs])
        served = np.concatenate([answer.outputs.ravel() for _, answer in pairs])
        known = frame.arr_delay.notna().to_numpy()
        truth = frame.arr_delay.to_numpy(np.float64)[known]
        new_error = float(np.abs(served[known] - truth).mean())
        old_error = float(np.abs(self.old.predict(summer.rows(frame))[known] - truth).mean())
        self.claims.check(
            "what the sites are told is nearer to the truth than 1.0.0 would have been",
            new_error < BETTER_SHARE * old_error and {answer.version for _, answer in pairs} == {"1.1.0"},
            f"mean error over {len(truth)} flights: {new_error:.1f} minutes, with 1.0.0 it would have been {old_error:.1f}",
        )
        out = DIRECTORY / "windows.parquet"
        said = self.fleet.cli("export-windows", "--model", "delay", "--out", str(out))
        frame = pd.read_parquet(out)
        self.claims.check(
            "all of it can be read by pandas, a row a bin",
            len(frame) == said["rows"] > 0 and set(frame.version) == {"1.0.0", "1.1.0"},
            f"{len(frame)} rows of {said['intervals']} intervals in {said['bytes']} bytes",
        )

    def end(self) -> None:
        """Stop the servers."""
        self.receiver.stop()


def _number(day: date) -> int:
    return day.month * 100 + day.day


if __name__ == "__main__":
    sys.exit(run(DIRECTORY, Path("demo-loop-report.json"), Loop))
