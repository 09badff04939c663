"""Check, under a real systemd, what the units claim. Each check is a function of the plant; its name is the claim."""

import json
import re
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from tests.vm.plant import NODE, PROGRAMS, SETTINGS, UNITS, Plant

UNITS_FOLDER: Final = "/etc/systemd/system"
DYNAMIC_USERS: Final = range(61184, 65520)
# What the shipped unit may answer: an error, and never a signal that would end a process of ours.
FORBIDDEN: Final = {
    "packet socket": {"EAFNOSUPPORT"},
    "netlink socket": {"EAFNOSUPPORT"},
    "user namespace": {"EPERM"},
    "mount namespace": {"EPERM"},
    "mount": {"EPERM"},
    "real-time scheduling": {"EPERM"},
    "set-user-id file": {"EPERM"},
    "personality": {"EPERM"},
    "clock": {"EPERM"},
    "host name": {"EPERM"},
    "kernel module": {"EPERM"},
    "reboot": {"EPERM"},
    "change of owner": {"EPERM"},
    "another user": {"EPERM"},
    "core dump": {"no core is dumped"},
    "kernel log": {"/dev/kmsg is not there", "EPERM", "EACCES"},
    "disk": {"/dev/vda is not there"},
    "process 1": {"/proc/1/status is not there"},
    "passphrase": {"EACCES"},
}
NEEDED: Final = ("state", "internet socket", "unix socket", "child")
# 503 is an answer, and none of systemd's: a node waits ten seconds for its model, which takes longer to load in emulation.
ANSWERED: Final = {200, 503}
WATCHDOG_SECONDS: Final = 180  # of the node's unit as shipped; what is stopped takes no SIGABRT, and is killed TimeoutStopSec later


def shown(plant: Plant, unit: str, *names: str) -> dict[str, str]:
    """Return properties that systemd has of a unit."""
    out = plant.guest.run("systemctl", "show", unit, f"--property={','.join(names)}").out
    return dict(line.split("=", 1) for line in out.splitlines() if "=" in line)


def pid_of(plant: Plant, unit: str = NODE) -> int:
    """Return a service's main process."""
    return int(shown(plant, unit, "MainPID")["MainPID"])


def until(what: str, probe: Callable[[], Any], seconds: float = 300) -> Any:
    """Return what a probe finds at last."""
    deadline = time.monotonic() + seconds
    while not (found := probe()):
        assert time.monotonic() < deadline, f"waited {seconds} s in vain for {what}"
        time.sleep(1)
    return found


def the_units_start_as_they_are_shipped(plant: Plant) -> None:
    plant.wait_active(*UNITS)
    for unit in UNITS:
        found = shown(plant, unit, "ActiveState", "NRestarts", "Result")
        assert (found["ActiveState"], found.get("NRestarts", "0"), found["Result"]) == ("active", "0", "success"), f"{unit}: {found}"
    assert shown(plant, NODE, "StatusText")["StatusText"].startswith("serving press")
    enabled = plant.guest.run("systemctl", "is-enabled", *UNITS).out.split()
    assert set(enabled) == {"enabled"}, enabled


def the_node_has_a_user_of_its_own_and_its_folder(plant: Plant) -> None:
    pid = pid_of(plant)
    status = plant.guest.run("cat", f"/proc/{pid}/status").out
    user = int(re.search(r"^Uid:\t(\d+)", status, re.MULTILINE)[1])  # type: ignore[index]
    assert user in DYNAMIC_USERS, user
    listing = plant.guest.run("find", "/var/lib/private/fleetcast-node/gate-17", "-printf", "%U %m %y %P\\n").out.splitlines()
    assert listing
    assert {line.split()[0] for line in listing} == {str(user)}, "enrolled as root, and not handed over"
    modes = [plant.guest.run("stat", "--format=%a", f"/var/lib/private{below}").out.strip() for below in ("", "/fleetcast-node/gate-17")]
    assert modes == ["700", "700"], modes  # nobody else comes as far as the files


def the_hub_has_its_passphrase_as_a_credential(plant: Plant) -> None:
    path = "/etc/fleetcast/online.passphrase"
    refused = plant.guest.run("runuser", "-u", "fleetcast", "--", "cat", path, codes=None)
    assert refused.code != 0, "the hub's user can read the passphrase by itself"
    command = plant.guest.run("cat", f"/proc/{pid_of(plant, 'fleetcast-hub.service')}/cmdline").out.split("\0")
    assert "/run/credentials/fleetcast-hub.service/passphrase" in command, command


def hardening_works_on_the_running_processes(plant: Plant) -> None:
    for unit, memory, tasks in ((NODE, 2 << 30, 256), ("fleetcast-hub.service", 4 << 30, 256)):
        pid = pid_of(plant, unit)
        status = dict(line.split(":\t", 1) for line in plant.guest.run("cat", f"/proc/{pid}/status").out.splitlines() if ":\t" in line)
        assert (status["NoNewPrivs"], status["Seccomp"], status["Umask"]) == ("1", "2", "0077"), status
        assert {int(status[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {0}, status
        group = "/sys/fs/cgroup" + plant.guest.run("cut", "-d:", "-f3", f"/proc/{pid}/cgroup").out.strip()
        assert plant.guest.run("cat", f"{group}/memory.max").out.strip() == str(memory)
        assert plant.guest.run("cat", f"{group}/pids.max").out.strip() == str(tasks)
        # As root in its mount namespace: what stays forbidden there is so by the unit, and not by the user.
        plant.guest.run("sh", "-c", "mkdir -p /home/somebody && touch /tmp/of-others")

        def inside(script: str, pid: int = pid) -> int:
            return plant.guest.run("nsenter", f"--target={pid}", "--mount", "--", "sh", "-c", script, codes=None).code

        for path in ("/etc/x", "/usr/x", "/var/lib/x", "/opt/fleetcast/x", "/boot/x"):
            assert inside(f"touch {path} 2>/dev/null") != 0, f"{unit} may write {path}"
        for path in ("/home/somebody", "/tmp/of-others", "/dev/vda"):  # noqa: S108  # a path of the guest
            assert inside(f"test -e {path}") != 0, f"{unit} sees {path}"
        assert inside("echo 7 >/proc/sys/kernel/printk") != 0, f"{unit} may tune the kernel"
        assert inside("mkdir /sys/fs/cgroup/x 2>/dev/null") != 0, f"{unit} may change control groups"
        names = [plant.guest.run("readlink", f"/proc/{one}/ns/uts").out for one in (1, pid)]
        assert names[0] != names[1], "ProtectHostname does not hold"


def what_the_units_forbid_fails_and_what_they_need_works(plant: Plant) -> None:
    wanted = {"fleetcast-hub.service": "hub", "fleetcast-node@.service": "node", "fleetcast-relay.service": "relay"}
    for shipped, name in wanted.items():
        found = _attempts(plant, shipped, name)
        wrong = {what: found[what] for what, may in FORBIDDEN.items() if found[what] not in may}
        # Others may see the hub's folder only as its own user, and the hub may place threads and set priorities.
        if name != "hub":
            assert int(found["user"]) in DYNAMIC_USERS, found
            wrong |= {} if found["priority"] == "EPERM" else {"priority": found["priority"]}
        if name == "relay":
            wrong |= {} if found["writable code"] == "EPERM" else {"writable code": found["writable code"]}
        needed = NEEDED if name == "relay" else (*NEEDED, "placing threads")
        wrong |= {what: found[what] for what in needed if found[what] != "allowed"}
        assert not wrong, f"{shipped}: {wrong}"
        assert found["credential"] == ("only for a test" if name == "hub" else ""), found


def _attempts(plant: Plant, shipped: str, name: str) -> Mapping[str, str]:
    """Return what a program could do under the shipped unit with nothing changed but the program, and that it ends."""
    text = plant.guest.run("cat", f"{UNITS_FOLDER}/{shipped}").out
    text = re.sub(r"^ExecStart=.*$", "ExecStart=/usr/bin/python3 /opt/vm/attempts.py", text, flags=re.MULTILINE)
    text = re.sub(r"^(Type|Restart|WatchdogSec|NotifyAccess|Requires|After|Wants)=.*\n", "", text, flags=re.MULTILINE)
    unit = f"attempts-{name}.service" if "@" not in shipped else f"attempts-{name}@probe.service"
    template = unit.replace("@probe", "@")
    plant.guest.run(
        "sh",
        "-c",
        f"cat >/run/systemd/system/{template} && systemctl daemon-reload",
        typed=text.replace("[Service]", "[Service]\nType=oneshot", 1),
    )
    plant.guest.run("systemctl", "start", unit, codes=None)
    out = plant.guest.run("journalctl", "-u", unit, "-o", "cat", "--no-pager").out
    found = [line for line in out.splitlines() if line.startswith('{"attempts"')]
    assert found, out
    return dict(json.loads(found[-1])["attempts"])


def the_socket_holds_requests_over_a_restart(plant: Plant) -> None:
    statuses: list[int] = []
    stop = threading.Event()

    def ask() -> None:
        while not stop.is_set():
            statuses.append(plant.infer(seconds=240)[0])

    asking = [threading.Thread(target=ask, daemon=True) for _ in range(3)]
    for one in asking:
        one.start()
    before = pid_of(plant)
    plant.guest.run("systemctl", "restart", NODE)
    until("an answer after the restart", lambda: 200 in statuses[-3:])
    stop.set()
    for one in asking:
        one.join(300)
    assert pid_of(plant) != before
    assert set(statuses) <= ANSWERED, statuses


def a_request_starts_a_node_that_was_stopped(plant: Plant) -> None:
    plant.guest.run("systemctl", "stop", NODE)
    found = shown(plant, NODE, "ActiveState", "Result")
    assert (found["ActiveState"], found["Result"]) == ("inactive", "success"), found
    status, said = plant.infer(seconds=240)
    assert status in ANSWERED, (status, said)
    plant.wait_active(NODE)
    plant.wait_serving()


def a_node_that_is_killed_is_started_again(plant: Plant) -> None:
    before = pid_of(plant)
    plant.guest.run("kill", "-KILL", str(before))
    status, said = plant.infer(seconds=240)
    assert status in ANSWERED, (status, said)
    assert pid_of(plant) != before
    plant.wait_serving()
    assert int(shown(plant, NODE, "NRestarts")["NRestarts"]) >= 1


def a_hub_that_is_killed_is_started_again(plant: Plant) -> None:
    before = pid_of(plant, "fleetcast-hub.service")
    plant.guest.run("kill", "-KILL", str(before))
    until("another hub", lambda: pid_of(plant, "fleetcast-hub.service") not in {0, before})
    plant.settle()


def the_watchdog_kills_and_restarts_a_starved_agent(plant: Plant) -> None:
    assert shown(plant, NODE, "WatchdogUSec")["WatchdogUSec"] == "3min"
    before, restarts = pid_of(plant), int(shown(plant, NODE, "NRestarts")["NRestarts"])
    statuses: list[tuple[int, str]] = []
    plant.guest.run("kill", "-STOP", str(before))
    waiting = threading.Thread(target=lambda: statuses.append(plant.infer(seconds=WATCHDOG_SECONDS + 400)), daemon=True)
    waiting.start()  # systemd's socket takes it while nobody reads
    until("the watchdog", lambda: pid_of(plant) not in {0, before}, WATCHDOG_SECONDS + 240)
    log = plant.guest.run("journalctl", "-u", NODE, "--no-pager").out
    assert "Watchdog timeout" in log, log[-2000:]
    assert int(shown(plant, NODE, "NRestarts")["NRestarts"]) == restarts + 1
    waiting.join(600)
    assert len(statuses) == 1, statuses
    assert statuses[0][0] in ANSWERED, statuses
    plant.wait_serving()
    left = plant.guest.run("ps", "-o", "pid=", "--ppid", str(before), codes=None).out.split()
    assert not left, f"workers of the killed agent live on: {left}"


def wrong_settings_are_not_tried_again_and_again(plant: Plant) -> None:
    unit = "fleetcast-node@wrong.service"
    script = f"mkdir -p /etc/fleetcast/nodes/wrong && echo 'id = 17' >{SETTINGS.replace('gate-17', 'wrong')}"
    plant.guest.run("sh", "-c", script)
    socket = f"{UNITS_FOLDER}/fleetcast-node@wrong.socket.d"
    plant.guest.run(
        "sh", "-c", f"mkdir -p {socket} && printf '[Socket]\\nListenStream=\\nListenStream=127.0.0.1:8090\\n' >{socket}/port.conf"
    )
    plant.guest.run("systemctl", "daemon-reload")
    plant.guest.run("systemctl", "start", unit, codes=None)
    until("its end", lambda: shown(plant, unit, "ActiveState")["ActiveState"] == "failed")
    time.sleep(8)  # RestartSec is 5
    found = shown(plant, unit, "ActiveState", "NRestarts", "ExecMainStatus")
    assert (found["ActiveState"], found["NRestarts"]) == ("failed", "0"), found
    plant.guest.run("systemctl", "stop", unit, "fleetcast-node@wrong.socket", codes=None)
    plant.guest.run("rm", "-r", socket, "/etc/fleetcast/nodes/wrong")
    plant.guest.run("systemctl", "daemon-reload")


def the_relay_runs_between_two_brokers(plant: Plant) -> None:
    plant.guest.run("systemd-run", "--unit=site-broker", "/usr/sbin/mosquitto", "-p", "1884")
    settings = """id = "relay-1"
fleet = "plant"
data = "/var/lib/fleetcast-relay"
[upstream]
broker = "mqtts://127.0.0.1:8883"
tls_ca = "/var/lib/fleetcast-relay/tls/ca.crt"
tls_certificate = "/var/lib/fleetcast-relay/tls/relay-1.crt"
tls_key = "/var/lib/fleetcast-relay/tls/relay-1.key"
[site]
broker = "mqtt://127.0.0.1:1884"
"""
    plant.guest.run("sh", "-c", "cat >/etc/fleetcast/relay.toml", typed=settings)
    since = len(plant.guest.events)
    plant.guest.run("systemctl", "start", "fleetcast-relay.service")
    found = shown(plant, "fleetcast-relay.service", "ActiveState", "NRestarts")
    assert (found["ActiveState"], found["NRestarts"]) == ("active", "0"), found
    for side in ("upstream", "site"):
        event = plant.guest.wait_for(
            lambda one, side=side: one.name == "broker.connected" and one.body.get("side") == side, 120, since=since
        )
        assert event is not None, f"the relay has no connection to its {side}"
    plant.guest.run("systemctl", "stop", "fleetcast-relay.service")
    assert shown(plant, "fleetcast-relay.service", "Result")["Result"] == "success"
    plant.guest.run("systemctl", "stop", "site-broker.service")


def the_doctor_finds_nothing_at_fault(plant: Plant) -> None:
    done = plant.guest.run(f"{PROGRAMS}/fleetcast-node", "doctor", "--settings", SETTINGS, "--json", codes=None)
    findings = {finding["code"]: finding for finding in json.loads(done.out)}
    assert not set(findings) - {"agent.died", "memory.limits", "disk.low", "service.no_socket"}, findings
    assert "service.no_socket" not in findings, findings


CHECKS: Final = (
    the_units_start_as_they_are_shipped,
    the_node_has_a_user_of_its_own_and_its_folder,
    the_hub_has_its_passphrase_as_a_credential,
    hardening_works_on_the_running_processes,
    what_the_units_forbid_fails_and_what_they_need_works,
    the_doctor_finds_nothing_at_fault,
    the_socket_holds_requests_over_a_restart,
    a_request_starts_a_node_that_was_stopped,
    a_node_that_is_killed_is_started_again,
    a_hub_that_is_killed_is_started_again,
    wrong_settings_are_not_tried_again_and_again,
    the_relay_runs_between_two_brokers,
    the_watchdog_kills_and_restarts_a_starved_agent,
)
