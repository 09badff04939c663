"""`fleetcast quickstart`: a whole fleet on this machine, from nothing to an answer, in one command."""

import http.client
import json
import re
import shlex
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any, Final

import click

from hub.cli.console import link, url_of
from hub.cli.errors import Ended, Exit
from hub.cli.options import json_option, node_page, opened
from hub.cli.quickstart_folder import (
    HOST,
    MODEL,
    NODES,
    VERSION,
    Folder,
    Ports,
    check_ports,
    choose_ports,
    made,
    wait_for_earlier,
    write_node_settings,
)
from hub.cli.quickstart_processes import Processes
from hub.settings import load
from schemas.names import check_name

EXTRAS: Final = ("hub", "node")
START_SECONDS: Final = 60.0  # for hub and nodes; a second or two on an idle machine
ANSWER_SECONDS: Final = 60.0
PROBATION_SECONDS: Final = 5
LOOK_SECONDS: Final = 0.2
_PORT: Final = click.IntRange(1, 65_535)


@click.command()
@click.argument("directory", type=click.Path(path_type=Path, file_okay=False))
@click.option("--fleet", default="plant", show_default=True, help="Name of the fleet, where it is made now.")
@click.option("--broker-port", type=_PORT, help="Port of the hub's broker. The default is a free one, which is kept.")
@click.option("--port", type=click.IntRange(1, 65_534), help="Port of the first node; the second has the next. The default is free ones.")
@click.option("--once", is_flag=True, help="End after the first answer, in place of running until Ctrl-C.")
@json_option
def quickstart(directory: Path, fleet: str, broker_port: int | None, port: int | None, once: bool, as_json: bool) -> None:
    """Make a fleet on this machine, and run it until Ctrl-C.

    This makes a fleet with its keys, a small model and its reference data. It starts a hub with its own broker and two nodes, all on
    loopback, publishes the model, rolls it out and asks a node for an answer. It prints each command that it runs, and what to try next.

    What it needs from one start to the next is in DIRECTORY: the fleet is one like any other. Run it again on the same folder, and hub
    and nodes go on where they were. The passphrase of the keys is in DIRECTORY/quickstart: it is a fleet to try things with.

    It needs both extras, `hub` and `node`.

    \b
    Examples:
      fleetcast quickstart ./plant
      fleetcast quickstart ./plant --port 8080 --once --json
    """
    began = time.monotonic()
    check_name("fleet", fleet)
    _check_installed()
    check_ports(broker_port, port)
    _end_on_sigterm()
    say: Callable[[str], None] = lambda text: click.echo(text, err=as_json)  # noqa: E731
    with made(directory, fleet) as (found, is_new):
        wait_for_earlier(found)
        ports = choose_ports(found, broker_port, port)
        write_node_settings(found, load(directory).fleet, ports)
        say(f"{directory}: a fleet, made now" if is_new else f"{directory}: the fleet of an earlier quickstart; it goes on where it was")
        environment = {"FLEETCAST_DIR": str(directory), "FLEETCAST_PASSPHRASE_FILE": str(found.passphrase)}
        processes = Processes({**environment, "FLEETCAST_BROKER_PORT": str(ports.broker)})
        try:
            answer = _run(found, ports, processes, say)
            stop = _until_stopped()  # From here on Ctrl-C is how it is meant to end.
            seconds = time.monotonic() - began
            say(f"\n{_in_words(answer)}, {seconds:.1f} s after the start.")
            if as_json:
                click.echo(json.dumps(_facts(found, ports, answer, seconds), indent=2))
            _say_next(found, ports, say, stays=not once)
            if not once:
                _stay(processes, stop)
        finally:
            processes.stop()
    if not once:
        say("The hub and the nodes have ended.")


def _check_installed() -> None:
    """Check that what a hub and a node import is installed.

    Raises:
        Ended: USAGE, naming what is missing and the extras that bring it.
    """
    missing: dict[str, list[str]] = {}
    with suppress(metadata.PackageNotFoundError):  # run from a folder that is not installed: imports will say what is missing
        for line in metadata.requires("fleetcast") or ():
            name = re.match(r"[A-Za-z0-9._-]+", line)
            extra = re.search(r"extra == ['\"]([a-z]+)['\"]", line)
            if name and extra and extra[1] in EXTRAS and not _is_installed(name[0]):
                missing.setdefault(extra[1], []).append(name[0])
    if missing:
        lacks = "; ".join(f"of [{extra}] there is no {', '.join(names)}" for extra, names in missing.items())
        raise Ended(Exit.USAGE, f"a quickstart runs a hub and nodes: {lacks}; install it with both extras, hub and node (docs/install.md)")


def _is_installed(name: str) -> bool:
    try:
        metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def _end_on_sigterm() -> None:
    """Have SIGTERM end hub and nodes in their order, too."""
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))


def _run(found: Folder, ports: Ports, processes: Processes, say: Callable[[str], None]) -> dict[str, Any]:
    """Start everything, have the model served, and return a node's answer."""
    from hub.signing.tuf_repository import Repository  # noqa: PLC0415  # slow to import; --help does not need it

    fleet = found.fleet
    _shown(say, "fleetcast", "hub", str(fleet))
    hub = processes.start("hub", "hub", ["hub", str(fleet), "--json-logs"], found.log_of("hub"))
    for node in NODES:
        words = ["run", "--settings", str(found.settings_of(node))]
        _shown(say, "fleetcast-node", *words)
        processes.start(node, "node", words, found.log_of(node))
    repository = Repository(fleet / "trust")
    is_served = repository.deployments(MODEL) is not None  # Whatever was rolled out since is not taken back.
    if not is_served and VERSION not in repository.releases(MODEL):
        words = ["publish", str(found.model), "--name", MODEL, "--version", VERSION, "--reference", str(found.reference)]
        words += ["--blocks", "day", "--probation-seconds", str(PROBATION_SECONDS), "--yes"]
        _shown(say, "fleetcast", *words)
        processes.run(words)
    processes.until(lambda: _hub_pid(fleet) == hub, "the hub is to be at its broker", START_SECONDS)
    processes.until(lambda: _online(fleet) >= set(NODES), "both nodes are to report to the hub", START_SECONDS)
    if not is_served:
        words = ["rollout", "start", f"{MODEL}@{VERSION}", "--wait"]
        _shown(say, "fleetcast", *words)
        processes.run(words)
    _shown(say, *_curl(ports))
    answers: list[dict[str, Any]] = []
    processes.until(lambda: _asked(ports.nodes[0], answers), f"{NODES[0]} is to answer a request", ANSWER_SECONDS)
    return answers[0]


def _shown(say: Callable[[str], None], *words: str) -> None:
    say(f"$ {shlex.join(words)}")


def _hub_pid(fleet: Path) -> int | None:
    with suppress(OSError, ValueError, KeyError):
        return int(json.loads((fleet / "hub.ready").read_text())["pid"])
    return None


def _online(fleet: Path) -> set[str]:
    return {one.node for one in node_page(fleet).nodes}


def _request() -> str:
    from hub.publish.example_release import FLIGHT  # noqa: PLC0415  # onnx and pyarrow are slow to import; --help does not need them

    return json.dumps(
        {"inputs": [{"name": "X", "datatype": "FP32", "shape": [1, len(FLIGHT)], "data": list(FLIGHT)}]}, separators=(",", ":")
    )


def _path() -> str:
    return f"/v2/models/{MODEL}/infer"


def _curl(ports: Ports) -> list[str]:
    return ["curl", "-s", "-H", "content-type:application/json", f"http://{HOST}:{ports.nodes[0]}{_path()}", "-d", _request()]


def _asked(port: int, answers: list[dict[str, Any]]) -> bool:
    """Ask a node, and keep its answer; False while it does not serve yet."""
    connection = http.client.HTTPConnection(HOST, port, timeout=10)
    with suppress(OSError, ValueError, http.client.HTTPException):
        connection.request("POST", _path(), _request(), {"content-type": "application/json"})
        response = connection.getresponse()
        body = response.read()
        if response.status == http.client.OK:
            answers.append(json.loads(body))
    connection.close()
    return bool(answers)


def _in_words(answer: dict[str, Any]) -> str:
    output = answer["outputs"][0]
    return f"{NODES[0]} answered: {output['name']} {output['data'][0]:.2f}, by {answer['model_name']}@{answer['model_version']}"


def _facts(found: Folder, ports: Ports, answer: dict[str, Any], seconds: float) -> dict[str, Any]:
    return {
        "directory": str(found.fleet),
        "passphrase_file": str(found.passphrase),
        **dict(_addresses(found, ports)),
        "answer": answer,
        "seconds": round(seconds, 2),
    }


def _addresses(found: Folder, ports: Ports) -> list[tuple[str, str]]:
    """Return where everything is, by name: the console first, where the hub has one."""
    url = url_of(found.fleet)
    return [
        *([("console", url)] if url else []),
        ("broker", ports.broker_url),
        *((node, f"http://{HOST}:{port}") for node, port in zip(NODES, ports.nodes, strict=True)),
    ]


def _say_next(found: Folder, ports: Ports, say: Callable[[str], None], *, stays: bool) -> None:
    fleet, where = found.fleet.resolve(), shlex.quote(str(found.fleet))
    say("\n" + "\n".join(f"{name:<8} {address}" for name, address in _addresses(found, ports)))
    if stays and (url := url_of(found.fleet)):
        say(f"\nsign in to the console once, within 15 minutes: {link(opened(found.fleet), url)}")
    say(f"logs     {found.own}/*.log")
    if stays:
        say("\nThey run until Ctrl-C. In another terminal:\n")
        say(f"export FLEETCAST_DIR={shlex.quote(str(fleet))}")
        say(f"export FLEETCAST_PASSPHRASE_FILE={shlex.quote(str(Folder(fleet).passphrase))}")
        say("fleetcast nodes")
        say("fleetcast releases")
        say("fleetcast watch\n")
    say(f"`fleetcast quickstart {where}` starts all of it again later; `fleetcast hub {where}` the hub alone.")


def _until_stopped() -> threading.Event:
    """Return an event that SIGTERM and SIGINT set."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    return stop


def _stay(processes: Processes, stop: threading.Event) -> None:
    """Run until it is stopped.

    Raises:
        Ended: a process has ended by itself.
    """
    while not stop.wait(LOOK_SECONDS):
        processes.check()
