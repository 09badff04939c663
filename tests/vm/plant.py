"""Run a hub, mosquitto and one node in the guest, as the pages say, and ask the node as its programs do."""

import json
import random
import threading
import time
from dataclasses import dataclass, field
from typing import Any, Final

from tests.vm.guest import Event, Guest, GuestDied
from tests.vm.record import Record

NODE: Final = "fleetcast-node@gate-17.service"
UNITS: Final = ("mosquitto.service", "fleetcast-hub.service", "fleetcast-node@gate-17.socket", NODE)
SETTINGS: Final = "/etc/fleetcast/nodes/gate-17/node.toml"
PROGRAMS: Final = "/opt/fleetcast/bin"
# Windows of a minute each, of which a day's budget pays for 24 or so: events are dated, so that a day passes in half a minute.
MORE_SETTINGS: Final = ("grace_seconds = 0", "idle_seconds = 1", "rate_bytes_per_second_max = 150000", "state_seconds = 30")
RHO_DAY_MAX: Final = 0.7
DAYS: Final = 300  # before today: the first day of the events
WINDOWS_A_DAY: Final = 40
SERVING_SECONDS: Final = 600
SETTLED_SECONDS: Final = 600
# What a power cut must not be able to cause, by the names under which hub and node log it.
BROKEN: Final = frozenset(
    {
        "bug.survived",
        "ledger.distrusted",
        "manifest.lost",
        "release.damaged",
        "settings.damaged",
        "slot.not_restored",
        "store.damaged",
        "store.rebuilt",
        "store.set_aside",
        "store.failed",
        "trust.folder_lost",
        "window.dropped",
        "enrolment.not_read",
    }
)


@dataclass
class Plant:
    """Drive what runs in one guest, and keep what was seen of it."""

    guest: Guest
    record: Record = field(default_factory=lambda: Record(RHO_DAY_MAX))
    version: int = 0  # of the newest rollout
    losses: list[str] = field(default_factory=list)
    statuses: dict[int, int] = field(default_factory=dict)
    _asked: int = 0
    _broken: int = 0

    # Setting up

    def begin(self) -> None:
        """Enrol the device and start it, as deploy/README.md says; then roll the first release out."""
        assert self.guest.wait_for(named("hub.ready"), SERVING_SECONDS) is not None, "the hub does not come up"
        said = self.fleetcast("enroll", "token", "--node", "gate-17", "--cohort", "lab", "--json")
        self.guest.run(
            f"{PROGRAMS}/fleetcast-node",
            "enroll",
            *("--hub", "https://127.0.0.1:8443", "--token", "-", "--settings", SETTINGS, "--data", "/var/lib/fleetcast-node/gate-17"),
            typed=f"{json.loads(said)['token']}\n",
        )
        more = "\n".join(MORE_SETTINGS)
        self.guest.run("sh", "-c", f"cat >>{SETTINGS} && chmod 0644 {SETTINGS}", typed=f"{more}\n")
        self.guest.run("systemctl", "enable", "--now", "fleetcast-node@gate-17.socket", "fleetcast-node@gate-17.service")
        self.roll_out()
        self.wait_serving({"1.0.0"})
        self.settle()

    def fleetcast(self, *arguments: str) -> str:
        """Run a command of the operator, as the hub's user."""
        command = ("runuser", "-u", "fleetcast", "--", f"{PROGRAMS}/fleetcast", *arguments, "--dir", "/var/lib/fleetcast-hub")
        return self.guest.run(*command).out

    def roll_out(self) -> None:
        """Have the next release go to the node; when the command ends, it is acknowledged."""
        self.version = self.version % len(self.guest.image.answers) + 1
        said = ("--no-halt-on-drift", "--supersede", "--breaking")
        self.fleetcast("rollout", "start", f"press@{self.version}.0.0", *said)

    def wait_active(self, *units: str, seconds: float = SERVING_SECONDS) -> None:
        """Wait until systemd calls these units active."""
        deadline = time.monotonic() + seconds
        while True:
            done = self.guest.run("systemctl", "is-active", *units, codes=None)
            if set(done.out.split()) == {"active"}:
                return
            assert time.monotonic() < deadline, f"{units}: {done.out}"
            time.sleep(1)

    # What programs see

    def infer(self, *, row: int = 0, event_time: float | None = None, seconds: float = 120) -> tuple[int, str]:
        """Ask for one row; the status, and the version that answered. A wrong answer is a loss."""
        width = len(self.guest.image.rows) // 4
        data = self.guest.image.rows[row * width : (row + 1) * width]
        tensor = {"name": "X", "datatype": "FP32", "shape": [1, width], "data": data}
        body = {"inputs": [tensor], "parameters": {} if event_time is None else {"event_time": event_time}}
        try:
            reply = self.guest.ask("ask", path="/v2/models/press/infer", body=json.dumps(body), limit=seconds, seconds=seconds + 60)
        except TimeoutError as error:
            reply = {"status": 0, "body": str(error)}
        self.statuses[reply["status"]] = self.statuses.get(reply["status"], 0) + 1
        if reply["status"] != 200:
            return reply["status"], reply["body"]
        answer = json.loads(reply["body"])
        version, value = answer["model_version"], answer["outputs"][0]["data"][0]
        wanted = self.guest.image.answers.get(version)
        if wanted is None:
            self.lose(f"{version} answered, which was never published")
        elif abs(value - wanted[row]) > 1e-3 * (1 + abs(wanted[row])):
            self.lose(f"{version} answered {value}, and should answer {wanted[row]}")
        return 200, version

    def wait_serving(self, versions: set[str] | None = None) -> float:
        """Wait until a release answers, one of these if any are given; the seconds until it did."""
        began = time.monotonic()
        while True:
            status, said = self.infer()
            if status == 200 and (versions is None or said in versions):
                return time.monotonic() - began
            if time.monotonic() - began > SERVING_SECONDS:
                self.lose(f"{said or status} after {SERVING_SECONDS} s, and not an answer of {sorted(versions or {'any release'})}")
                return SERVING_SECONDS
            time.sleep(0.5)

    def next_time(self) -> float:
        """Return a time for the next row: each is in a window of its own."""
        day, window = divmod(self._asked, WINDOWS_A_DAY)
        self._asked += 1
        today = int(time.time()) // 86_400
        return (today - DAYS + day) * 86_400 + window * 60 + 30

    # What is durable

    def look(self) -> None:
        """Compare both databases, and the log, with all that was seen before."""
        for loss in self.record.absorb(self.guest.ask("look", after=self.record.after)):
            self.lose(loss)
        for event in self.guest.events[self._broken :]:
            if event.name in BROKEN:
                self.lose(f"{event.unit} logged {event.body}")
        self._broken = len(self.guest.events)

    def booted(self) -> None:
        """Begin with a new console."""
        self._broken = 0
        self.record.has_read.clear()

    def look_at_both(self) -> None:
        """Look until both databases were read since the boot."""
        deadline = time.monotonic() + SERVING_SECONDS
        self.look()
        while self.record.has_read != {"hub", "node"}:
            if time.monotonic() > deadline:
                self.lose(f"only {sorted(self.record.has_read)} opened their databases in {SERVING_SECONDS} s")
                return
            time.sleep(1)
            self.look()

    def settle(self) -> None:
        """Wait until the node serves what it should, and the hub has every window and receipt of the node."""
        self.wait_serving({f"{self.version}.0.0"})
        deadline = time.monotonic() + SETTLED_SECONDS
        self.look_at_both()
        while self.record.waiting:
            if time.monotonic() > deadline:
                self.lose(f"after {SETTLED_SECONDS} s the hub still lacks {self.record.waiting[:5]}, {len(self.record.waiting)} in all")
                return
            time.sleep(1)
            self.look()

    def lose(self, loss: str) -> None:
        """Keep a loss, once."""
        if loss not in self.losses:
            self.losses.append(loss)
            print(f"  LOST: {loss}", flush=True)

    # Traffic

    def traffic(self, stop: threading.Event, rng: random.Random, pause_seconds: float) -> threading.Thread:
        """Send rows, each of a minute of its own, until it is stopped or the power is cut."""

        def send() -> None:
            while not stop.is_set():
                try:
                    self.infer(row=rng.randrange(4), event_time=self.next_time())
                except (GuestDied, OSError):
                    return
                stop.wait(pause_seconds)

        thread = threading.Thread(target=send, name="traffic", daemon=True)
        thread.start()
        return thread


def moved_to(*states: str) -> Any:
    """Return a test for the node's slot moving to one of these states."""
    return lambda event: event.name == "slot.moved" and event.body.get("state") in states


def named(*names: str) -> Any:
    """Return a test for events of these names."""
    return lambda event: isinstance(event, Event) and event.name in names
