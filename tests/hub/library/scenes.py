"""A fleet as a Python program finds it: trained models, frames, nodes that have reported, and a hub with a node that a test speaks for."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from queue import Queue
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
from sklearn.linear_model import Ridge

import fleetcast
from fleetcast.mqtt_connection import BrokerUrl, Link
from hub.database.rows import NodeRow
from hub.database.store import Store
from hub.operations.deployed import model_of
from hub.operations.opened_fleet import OpenedFleet
from hub.settings import load
from hub.signing.tuf_repository import Repository
from schemas import codec
from schemas.manifest import Manifest
from schemas.state import Profile, State
from schemas.topics import Topics
from tests.broker.client import Client
from tests.databases import url_of
from tests.hub.cli.fleets import COLUMNS, INPUTS, TARGET, Made
from tests.hub.cli.test_rollout import Hub
from tests.hub.hubs import Device, until

MODEL = "delay"
FLEET = "f"


def estimator(alpha: float = 1.0) -> Ridge:
    """A model of a training program, fitted on a table."""
    return Ridge(alpha=alpha).fit(frame()[COLUMNS], TARGET)


def frame() -> pd.DataFrame:
    """The table that it was fitted on, with the day of each row."""
    return pd.DataFrame(INPUTS.astype(np.float32), columns=COLUMNS).assign(day=np.arange(len(INPUTS)) % 20)


def key_of(made: Made) -> fleetcast.Key:
    """The team's key."""
    return fleetcast.Key(made.fleet / "keys" / "team.pem", passphrase_file=made.secret)


def opened(made: Made) -> OpenedFleet:
    """The fleet beneath what a program holds."""
    return OpenedFleet(made.fleet, load(made.fleet), Store(url_of(made.fleet / "hub.sqlite")), Repository(made.fleet / "trust"))


def report(made: Made, *nodes: tuple[str, dict[str, str]]) -> None:
    """Have nodes report, each with its labels."""
    fleet, rows = opened(made), []
    for name, labels in nodes:
        profile = Profile(arch="x86_64", cores=1, memory_bytes=1, labels=labels)
        state = State(node=name, session=1, status="online", at=int(time.time()), profile=profile)
        rows.append(NodeRow(name, 1, "online", state.at, codec.encode(state), b"", "default"))
    fleet.store.upsert_nodes(rows)
    fleet.store.close()


@dataclass
class Running:
    """A hub that runs, with a node that does what a test says."""

    made: Made
    ready: dict[str, Any]
    device: Device

    def serve(self, version: str) -> None:
        """Have the node say that it serves a release."""
        self.device.sign("serving", self.manifest(version))

    def fail(self, version: str) -> None:
        """Have the node say that it cannot take a release."""
        self.device.sign("refused", self.manifest(version), code="model.golden_mismatch")

    def manifest(self, version: str, model: str = MODEL) -> Manifest:
        """A release as it was signed."""
        return codec.decode(Manifest, Repository(self.made.fleet / "trust").manifest(model, version))


@contextmanager
def obedient(hub: Running) -> Iterator[None]:
    """Have the node serve whatever is rolled out, as soon as it is reached."""
    ends, repository, done = threading.Event(), Repository(hub.made.fleet / "trust"), set[bytes]()

    def obey() -> None:
        while not ends.wait(0.1):
            for model in repository.models():
                for one in model_of(repository, model).deployments:
                    if one.state == "running" and one.rollout not in done:
                        done.add(one.rollout)
                        hub.device.sign("serving", hub.manifest(one.release.version, model), model=model)

    thread = threading.Thread(target=obey)
    thread.start()
    try:
        yield
    finally:
        ends.set()
        thread.join()


@contextmanager
def running(made: Made) -> Iterator[Running]:
    """A hub, and a node that has reported."""
    with Hub(made) as hub:
        inbox: Queue[Any] = Queue()
        client = Client(Link(BrokerUrl.parse(hub.ready["broker_url"]), client_id="n0", inbox=inbox, session_expiry_seconds=0), inbox)
        device = Device("n0", client, SimpleNamespace(topics=Topics(FLEET)))  # type: ignore[arg-type]
        client.open()
        device.say_state()
        with fleetcast.open(made.fleet) as fleet:
            until("the node", lambda: [one.node for one in fleet.nodes()] == ["n0"])
        try:
            yield Running(made, hub.ready, device)
        finally:
            client.link.close()
