"""Fixtures that more than one folder of tests uses, and what every test may count on however slow and busy the machine is."""

import gc
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import httpx
import hypothesis
import pytest
import threadpoolctl

from node.runtimes import probe
from tests import brokers, databases, ended, objects, probed

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # Tests that call ONNX Runtime themselves report to nobody either.

# A property holds or does not; how long an example takes says nothing. In CI every run tries the same examples.
hypothesis.settings.register_profile(
    "fleetcast",
    deadline=None,
    derandomize=bool(os.environ.get("CI")),
    print_blob=True,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("fleetcast")

# Where a test says nothing of it, an answer is waited for longer than httpx's five seconds.
httpx._config.DEFAULT_TIMEOUT_CONFIG.connect = httpx._config.DEFAULT_TIMEOUT_CONFIG.pool = 60.0
httpx._config.DEFAULT_TIMEOUT_CONFIG.read = httpx._config.DEFAULT_TIMEOUT_CONFIG.write = 60.0

# Whoever was started in a shell's background ignores Ctrl-C and hands that on to every process; ours are to hear it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_configure(config: pytest.Config) -> None:
    ended.follow(config)


def pytest_unconfigure() -> None:
    databases.end_shared()


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Collect tests without looking for garbage, and leave them and their modules out of every later search for it: all of it stays."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.collect()
        gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def single_threaded_algebra() -> Iterator[None]:
    """Processes of tests share the cores. A second thread of linear algebra would mostly wait in a loop, which takes as much CPU as work.

    It holds in the tests' own process, where small models are trained; hubs, nodes and commands are as an operator has them.
    """
    with threadpoolctl.threadpool_limits(1):
        yield


@pytest.fixture(scope="session", autouse=True)
def runtimes_asked_once() -> Iterator[None]:
    """Agents in the tests' own process share the runtimes' answers; a process of its own asks, or is given them by `probed.answer_in`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(probe, "_imported", probed.ask_once)
        yield


@pytest.fixture(params=brokers.KINDS)
def broker(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[brokers.Broker]:
    """Each kind of broker in turn, running."""
    with brokers.running(request.param, tmp_path / "broker") as running:
        yield running


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[objects.Bucket]:
    """A new bucket of a real S3 server, with credentials in the environment."""
    with objects.bucket(monkeypatch) as made:
        yield made


@pytest.fixture
def mosquitto(tmp_path: Path) -> Iterator[brokers.Broker]:
    """mosquitto with mutual TLS and the generated access lists, running."""
    with brokers.running("mosquitto", tmp_path / "broker") as running:
        yield running
