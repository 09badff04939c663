"""Programs that worked before the switch get 4xx from a new release: it goes back. A program that was always wrong harms no release."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from onnx import TensorProto, helper

from node.trust.tuf_client import Release
from schemas.errors import Code
from schemas.manifest import Block, Datatype, File, Limits, Manifest, Tensor, Variant
from schemas.names import sha256
from tests.node.agent.sites import Site, verified

LONG = Limits(probation_seconds=600)
SHORT = Limits(probation_seconds=1)


def doubling(name: str, width: int) -> bytes:
    """Twice its input, which is called `name`."""
    given = helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, width])
    answer = helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, width])
    graph = helper.make_graph([helper.make_node("Add", [name, name], ["y"])], "doubling", [given], [answer])
    return bytes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString())


class Publisher:
    """Makes releases of `m`, and keeps the files that a courier brings."""

    def __init__(self) -> None:
        self.contents: dict[bytes, bytes] = {}

    def model(self, version: str, name: str = "input", width: int = 3, *, limits: Limits = LONG) -> Release:
        def tensor(name: str, datatype: Datatype = "FP32") -> Tensor:
            return Tensor(name=name, datatype=datatype, shape=(-1, width))

        return self._release(version, doubling(name, width), "onnx", limits, inputs=(tensor(name),), outputs=(tensor("y"),))

    def files(self, version: str) -> Release:
        """A CSV that was published by mistake."""
        return self._release(version, b"a,b,c\n1,2,3\n", "files", LONG, inputs=(), outputs=())

    def _release(self, version: str, data: bytes, runtime: str, limits: Limits, **fields: Any) -> Release:
        self.contents[sha256(data)] = data
        file = File(path="model", bytes=len(data), digest=sha256(data), blocks=(Block(sha256(data), len(data)),))
        variant = Variant(name="v", runtime=runtime, files=(file,))
        return verified(Manifest(model="m", version=version, created=1, variants=(variant,), limits=limits, **fields))


@pytest.fixture
def publisher() -> Publisher:
    return Publisher()


@pytest.fixture
def site(tmp_path: Path, publisher: Publisher) -> Iterator[Site]:
    site = Site(tmp_path / "node", publisher.contents)
    site.start()
    yield site
    site.server.stop()


def ask(site: Site, name: str = "input", width: int = 3, rows: int = 1) -> int:
    tensor = {"name": name, "datatype": "FP32", "shape": [rows, width], "data": [1.0] * (rows * width)}
    return httpx.post(f"{site.url}/v2/models/m/infer", json={"inputs": [tensor]}).status_code


def settle(site: Site, release: Release) -> None:
    site.wants(release)
    site.turn_until(lambda: site.slot().state == "active" and site.slot().proven)


def on_probation(site: Site, release: Release) -> None:
    site.wants(release)
    site.turn_until(lambda: site.slot().state == "probation")


def serves(site: Site, release: Release) -> bool:
    serving = site.slot().serving
    return serving is not None and serving.digest == release.digest


def turn(site: Site, times: int = 20) -> None:
    for _ in range(times):
        site.turn()


@pytest.mark.parametrize(("name", "width"), [("x", 3), ("input", 4)], ids=["renamed", "reshaped"])
def test_a_release_that_refuses_what_worked_goes_back(site: Site, publisher: Publisher, name: str, width: int) -> None:
    old = publisher.model("1.0.0", limits=SHORT)
    settle(site, old)
    on_probation(site, publisher.model("1.1.0", name, width))

    refused = {ask(site) for _ in range(3)}
    site.turn_until(lambda: site.slot().state == "rolled_back")
    site.turn_until(lambda: ask(site) == 200)

    assert refused == {400}
    assert site.slot().code == Code.PROBATION_ERRORS
    assert serves(site, old)
    [receipt] = [one for one in site.receipts() if one.outcome == "rolled_back"]
    assert receipt.reason.startswith("requests that the release before would have taken are refused")
    assert re.findall(r"\d+", receipt.reason) == ["2"]  # the share that the release allows, and no count of what was asked


def test_files_that_take_a_models_place_go_back(site: Site, publisher: Publisher) -> None:
    old = publisher.model("1.0.0", limits=SHORT)
    settle(site, old)
    on_probation(site, publisher.files("1.1.0"))

    refused = {ask(site) for _ in range(3)}
    site.turn_until(lambda: serves(site, old))

    assert refused == {400}


def test_a_program_that_was_always_wrong_rolls_nothing_back(site: Site, publisher: Publisher) -> None:
    settle(site, publisher.model("1.0.0", limits=SHORT))
    new = publisher.model("1.1.0", name="x", limits=SHORT)
    before = {ask(site, "nonsense") for _ in range(5)}
    site.wants(new)
    site.turn_until(lambda: site.slot().state == "probation")

    during = {ask(site, "nonsense") for _ in range(50)} | {ask(site, "input", 7)}
    site.turn_until(lambda: site.slot().state == "active")

    assert (before, during) == ({400}, {400})
    assert serves(site, new)


def test_programs_that_changed_with_the_release_are_served(site: Site, publisher: Publisher) -> None:
    settle(site, publisher.model("1.0.0", limits=SHORT))
    new = publisher.model("1.1.0", name="x", limits=SHORT)
    site.wants(new)
    site.turn_until(lambda: site.slot().state == "probation")

    answers = {ask(site, "x", rows=rows) for rows in range(1, 30)}
    site.turn_until(lambda: site.slot().state == "active")

    assert answers == {200}
    assert serves(site, new)


def test_after_a_restart_in_probation_it_is_still_known_what_worked(tmp_path: Path, publisher: Publisher) -> None:
    old, new = publisher.model("1.0.0", limits=SHORT), publisher.model("1.1.0", name="x")
    first = Site(tmp_path / "node", publisher.contents)
    first.start()
    settle(first, old)
    on_probation(first, new)
    first.server.stop()
    first.store.close()

    again = Site(tmp_path / "node", publisher.contents)
    again.server.expect("m")
    again.start()
    try:
        again.turn_until(lambda: bool(again.server.loaded().get(new.digest)) and again.server.stats("m", new.digest).serves)
        refused = {ask(again) for _ in range(3)}
        again.turn_until(lambda: serves(again, old))
    finally:
        again.server.stop()

    assert refused == {400}


def test_once_a_release_has_settled_its_refusals_count_no_more(site: Site, publisher: Publisher) -> None:
    settle(site, publisher.model("1.0.0", limits=SHORT))
    new = publisher.model("1.1.0", name="x", limits=SHORT)
    settle(site, new)

    refused = {ask(site) for _ in range(30)}
    turn(site)

    assert refused == {400}
    assert site.server.stats("m", new.digest).turned_away == 0
    assert serves(site, new)
