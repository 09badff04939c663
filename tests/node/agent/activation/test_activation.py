"""What a device demands of a release with real models under real requests: agreement, few errors, speed; and what may be set about it."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import onnx
import pytest
from onnx import TensorProto, helper

from node.agent.events import WorkerReady
from node.serving import worker_pool
from node.trust.tuf_client import Release
from schemas.errors import Code
from schemas.manifest import Block, File, Limits, Manifest, Shadow, Tensor, Variant
from schemas.names import sha256
from schemas.parameters import Parameter
from tests.hub.hubs import until
from tests.node.agent.sites import Site, verified

ROWS_MIN = 20
SHADOW = Shadow(seconds=3, rows_min=ROWS_MIN, agreement_min=0.9)


def affine(factor: float, *, opset: int = 17, fails_below: float | None = None) -> bytes:
    """`y = factor * x + shift`, where `shift` is an input of its own. `fails_below`: a row below it cannot be answered at all."""
    nodes = [
        helper.make_node("Mul", ["x", "factor"], ["scaled"]),
        helper.make_node("Add", ["scaled", "shift"], ["y" if fails_below is None else "sum"]),
    ]
    constants = [helper.make_tensor("factor", TensorProto.FLOAT, [1], [factor])]
    if fails_below is not None:  # a negative index into one element fails at run time
        constants += [
            helper.make_tensor("zero", TensorProto.FLOAT, [1, 1], [0.0]),
            helper.make_tensor("low", TensorProto.FLOAT, [1], [fails_below]),
        ]
        nodes += [
            helper.make_node("Less", ["x", "low"], ["is_low"]),
            helper.make_node("Cast", ["is_low"], ["as_int"], to=TensorProto.INT64),
            helper.make_node("ReduceMax", ["as_int"], ["index"], keepdims=1),
            helper.make_node("GatherND", ["zero", "index"], ["nothing"]),
            helper.make_node("Add", ["sum", "nothing"], ["y"]),
        ]
    graph = helper.make_graph(
        nodes,
        "affine",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, 1]),
            helper.make_tensor_value_info("shift", TensorProto.FLOAT, [1]),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, 1])],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


@pytest.fixture
def contents() -> dict[bytes, bytes]:
    return {}


@pytest.fixture
def publish(contents: dict[bytes, bytes]) -> Callable[..., Release]:
    return releasing(contents)


def releasing(contents: dict[bytes, bytes]) -> Callable[..., Release]:
    def make(version: str, model: bytes, **fields: Any) -> Release:
        contents[sha256(model)] = model
        file = File(path="model.onnx", bytes=len(model), digest=sha256(model), blocks=(Block(sha256(model), len(model)),))
        said = {"limits": Limits(probation_seconds=0), **fields}
        return verified(
            Manifest(
                model="m",
                version=version,
                created=1,
                inputs=(Tensor(name="x", datatype="FP32", shape=(-1, 1)), Tensor(name="shift", datatype="FP32", shape=(1,))),
                outputs=(Tensor(name="y", datatype="FP32", shape=(-1, 1)),),
                variants=(Variant(name="fp32", files=(file,)),),
                **said,
            )
        )

    return make


@pytest.fixture
def site(tmp_path: Path, contents: dict[bytes, bytes]) -> Iterator[Site]:
    site = Site(tmp_path / "node", contents)
    site.start()
    yield site
    site.server.stop()


def ask(site: Site, rows: int = 1, *, shift: float | None = 0.0, first: float = 1.0) -> httpx.Response:
    inputs = [{"name": "x", "datatype": "FP32", "shape": [rows, 1], "data": [first + row for row in range(rows)]}]
    if shift is not None:
        inputs.append({"name": "shift", "datatype": "FP32", "shape": [1], "data": [shift]})
    return httpx.post(site.url + "/v2/models/m/infer", json={"inputs": inputs})


@contextmanager
def load(site: Site, **more: Any) -> Iterator[list[httpx.Response]]:
    """A client that asks all the while."""
    stop, answers = threading.Event(), []

    def run() -> None:
        while not stop.is_set():
            answers.append(ask(site, **more))
            time.sleep(0.002)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield answers
    finally:
        stop.set()
        thread.join()


def settle(site: Site, release: Release) -> None:
    site.wants(release)
    site.turn_until(lambda: site.slot().state == "active" and site.slot().proven and said(site, release)[-1:] == ["serving"])


def said(site: Site, release: Release) -> list[str]:
    return [one.outcome for one in site.receipts() if one.digest == release.digest]


def test_a_release_that_agrees_is_compared_then_served_and_no_count_is_reported(site: Site, publish: Callable[..., Release]) -> None:
    settle(site, publish("1.0.0", affine(2.0)))
    new = publish("2.0.0", affine(2.05), limits=Limits(probation_seconds=1, shadow=SHADOW))

    with load(site, rows=ROWS_MIN) as answers:
        site.wants(new)
        site.turn_until(lambda: site.slot().state == "shadow")
        site.turn_until(lambda: site.slot().state == "probation")
        site.turn_until(lambda: site.slot().state == "active")

    evidence = next(one.evidence for one in site.receipts() if one.digest == new.digest)
    assert evidence is not None
    assert (evidence.shadow, evidence.shadow_rows, evidence.shadow_agreement) == ("passed", None, None)
    assert {answer.status_code for answer in answers} == {200}
    assert {answer.json()["model_version"] for answer in answers} == {"1.0.0", "2.0.0"}
    assert site.server.loaded_of("m") == {new.digest}


def test_a_release_that_disagrees_is_refused_and_nobody_ever_gets_its_answers(site: Site, publish: Callable[..., Release]) -> None:
    old, new = publish("1.0.0", affine(2.0)), publish("2.0.0", affine(3.0), limits=Limits(shadow=SHADOW))
    settle(site, old)

    with load(site, rows=ROWS_MIN) as answers:
        site.wants(new)
        site.turn_until(lambda: site.slot().state == "refused")

    refusal = next(one for one in site.receipts() if one.digest == new.digest)
    assert (refusal.outcome, refusal.code) == ("refused", Code.SHADOW_DISAGREES)
    assert refusal.reason == "the releases agree on fewer rows than the 90% that they must"
    assert refusal.evidence is not None
    assert (refusal.evidence.shadow, refusal.evidence.shadow_rows) == (Code.SHADOW_DISAGREES, None)
    assert {answer.json()["model_version"] for answer in answers} == {"1.0.0"}
    assert site.server.loaded_of("m") == {old.digest}


def test_a_shadow_that_disagrees_on_probation_rolls_back(site: Site, publish: Callable[..., Release]) -> None:
    old, new = publish("1.0.0", affine(2.0)), publish("2.0.0", affine(3.0), limits=Limits(probation_seconds=600, shadow=SHADOW))
    settle(site, old)
    site.wants(new)
    site.turn_until(lambda: site.slot().state == "probation")  # nobody asked meanwhile, and nothing is decided by that

    with load(site, rows=ROWS_MIN) as answers:
        site.turn_until(lambda: site.slot().state == "rolled_back")
        site.turn_until(lambda: site.server.loaded_of("m") == {old.digest})

    assert {answer.status_code for answer in answers} == {200}
    assert (site.slot().serving, site.slot().code) == (site.slot().serving, Code.SHADOW_DISAGREES)
    assert said(site, new) == ["serving", "rolled_back"]
    assert ask(site).json()["model_version"] == "1.0.0"


def test_a_release_that_is_too_slow_for_real_requests_goes_back(site: Site, publish: Callable[..., Release]) -> None:
    old = publish("1.0.0", affine(2.0))
    new = publish("2.0.0", affine(2.0, opset=18), limits=Limits(latency_ms_max=30, probation_seconds=600))
    settle(site, old)
    site.wants(new)
    site.turn_until(lambda: site.slot().state == "probation")

    with load(site, rows=500_000):  # one row was quick, and so are a hundred thousand on some machines
        site.turn_until(lambda: site.slot().state == "rolled_back")

    assert site.slot().code == Code.PROBATION_LATENCY
    assert said(site, new) == ["serving", "rolled_back"]


def test_a_release_that_fails_real_requests_goes_back_and_a_clients_own_mistakes_do_not_count(
    site: Site, publish: Callable[..., Release]
) -> None:
    old, new = publish("1.0.0", affine(2.0)), publish("2.0.0", affine(2.0, fails_below=-100.0), limits=Limits(probation_seconds=600))
    settle(site, old)
    site.wants(new)
    site.turn_until(lambda: site.slot().state == "probation")
    wrong = [httpx.post(site.url + "/v2/models/m/infer", json={"inputs": []}).status_code for _ in range(40)]
    for _ in range(20):
        site.turn()

    assert (set(wrong), site.slot().state) == ({400}, "probation")
    with load(site, first=-1000.0) as answers:
        site.turn_until(lambda: site.slot().state == "rolled_back")
    assert 500 in {answer.status_code for answer in answers}
    assert site.slot().code == Code.PROBATION_ERRORS


def test_a_served_release_whose_worker_keeps_dying_goes_back_though_it_was_proven(site: Site, publish: Callable[..., Release]) -> None:
    old, new = publish("1.0.0", affine(2.0)), publish("2.0.0", affine(3.0))
    settle(site, old)
    settle(site, new)

    def kill() -> bool:
        process_id = site.server.loaded().get(new.digest)
        if process_id is not None:
            with suppress(ProcessLookupError):  # the one before, buried since it was asked for
                os.kill(process_id, signal.SIGKILL)
        return site.slot().state == "rolled_back"

    site.turn_until(kill)  # each start comes later than the one before
    site.turn_until(lambda: site.server.loaded_of("m") == {old.digest})

    assert (site.slot().serving and site.slot().serving.digest, site.slot().code) == (old.digest, Code.WORKER_CRASHED)
    assert "5 times in a row" in site.receipts()[-1].reason or "5 times in a row" in site.receipts()[-2].reason


def answers(site: Site) -> str | None:
    reply = ask(site)
    return str(reply.json()["model_version"]) if reply.status_code == 200 else None


@pytest.mark.parametrize("shadow", [None, SHADOW])
@pytest.mark.parametrize("restart", [False, True])
def test_going_back_on_probation_serves_the_last_good_release_also_after_restarts(
    tmp_path: Path, contents: dict[bytes, bytes], publish: Callable[..., Release], shadow: Shadow | None, restart: bool
) -> None:
    site = Site(tmp_path / "n", contents)
    site.start()
    old = publish("1.0.0", affine(2.0), limits=Limits(probation_seconds=0, shadow=shadow))
    settle(site, old)
    site.wants(publish("1.1.0", affine(3.0), limits=Limits(probation_seconds=3600)), bytes([1]) * 16)
    site.turn_until(lambda: site.slot().state == "probation" and answers(site) == "1.1.0")

    site.wants(old, bytes([2]) * 16)
    site.turn_until(lambda: said(site, old) == ["serving", "serving"])
    site.turn_until(lambda: site.slot().state == "active")
    if restart:
        site.server.stop()
        site.store.close()
        site = Site(tmp_path / "n", contents)
        site.start()
        site.turn_until(lambda: said(site, old) == ["serving", "serving", "serving"])

    slot, last = site.slot(), site.receipts()[-1]
    assert (answers(site), site.server.loaded_of("m")) == ("1.0.0", {old.digest})
    assert (slot.serving and slot.serving.digest, slot.last_good, slot.proven, last.version) == (old.digest, None, True, "1.0.0")
    site.server.stop()


def test_no_receipt_says_serving_before_the_endpoint_has_answered(site: Site, publish: Callable[..., Release]) -> None:
    release = publish("1.0.0", affine(2.0))
    site.server.expect("m")
    site.server._pool.slots["m"].waiting = worker_pool.QUEUE_REQUESTS_MAX  # so many wait that nobody else is let in
    site.wants(release)
    site.turn_until(lambda: site.slot().state == "active")
    for _ in range(100):
        site.turn()

    assert site.receipts() == []
    site.server._pool.slots["m"].waiting = 0
    site.turn_until(lambda: said(site, release) == ["serving"])


def test_where_the_endpoint_is_full_the_answers_to_clients_prove_it(site: Site, publish: Callable[..., Release]) -> None:
    release = publish("1.0.0", affine(2.0))
    site.server.expect("m")
    site.server._pool.slots["m"].waiting = worker_pool.QUEUE_REQUESTS_MAX - 1  # one client gets in
    with load(site):
        site.wants(release)
        site.turn_until(lambda: said(site, release) == ["serving"])


def test_what_the_endpoint_does_not_serve_is_brought_back_before_it_is_reported(site: Site, publish: Callable[..., Release]) -> None:
    old, new = publish("1.0.0", affine(2.0)), publish("2.0.0", affine(3.0), limits=Limits(probation_seconds=3600))
    settle(site, old)
    switch = site.server.switch
    site.server.switch = lambda model, digest: (switch(model, digest), site.server.retire(digest))[0]  # type: ignore[method-assign]
    site.wants(new)
    site.turn_until(lambda: site.slot().state == "probation")
    site.server.switch = switch  # type: ignore[method-assign]

    site.turn_until(lambda: said(site, new) == ["serving"])

    assert answers(site) == "2.0.0"


def test_the_nodes_own_questions_are_counted_and_observed_nowhere(site: Site, publish: Callable[..., Release]) -> None:
    release = publish("1.0.0", affine(2.0))
    settle(site, release)

    assert (site.server.stats("m", release.digest).requests, site.observed) == (0, [])


def test_time_that_the_device_was_off_and_jumps_of_its_clock_are_no_probation(
    tmp_path: Path, contents: dict[bytes, bytes], publish: Callable[..., Release]
) -> None:
    site = Site(tmp_path / "n", contents)
    site.start()
    settle(site, publish("1.0.0", affine(2.0)))
    new = publish("1.1.0", affine(3.0), limits=Limits(probation_seconds=40))
    site.wants(new)
    site.turn_until(lambda: site.slots._trials.probation("m").seconds > 2.5)  # a step is 2 s
    site.server.stop()
    site.store.close()  # as power is lost

    later = Site(tmp_path / "n", contents, faster=4)
    later._began -= -3600 * 24  # a day off, or a clock that was set
    later.start()
    later.turn_until(lambda: answers(later) == "1.1.0")
    for _ in range(20):
        later.turn()
    begins_at = later.slots._trials.probation("m").seconds
    assert (later.slot().state, later.slot().proven) == ("probation", False)
    began = time.monotonic()
    later.turn_until(lambda: later.slot().state == "active")
    later.server.stop()

    assert 2.0 <= begins_at < 20
    assert time.monotonic() - began > (40 - begins_at) / later.faster - 0.1


def test_a_comparison_goes_on_after_a_restart_with_what_it_had_counted(
    tmp_path: Path, contents: dict[bytes, bytes], publish: Callable[..., Release]
) -> None:
    site = Site(tmp_path / "n", contents)
    site.start()
    settle(site, publish("1.0.0", affine(2.0)))
    new = publish("2.0.0", affine(2.05), limits=Limits(probation_seconds=0, shadow=Shadow(seconds=20, rows_min=ROWS_MIN)))
    site.wants(new)
    site.turn_until(lambda: site.slot().state == "shadow")
    ask(site, rows=ROWS_MIN)
    site.turn_until(lambda: site.store.fact("compared_ms:m") > 0)
    site.server.stop()
    site.store.close()

    later = Site(tmp_path / "n", contents, faster=20)
    later.start()
    later.turn_until(lambda: later.slot().state == "shadow")
    trial = later.slots._trials.comparison("m")
    before = trial.before.rows, trial.seconds >= 1.0
    later.turn_until(lambda: later.slot().state == "active")
    later.server.stop()

    assert before == (ROWS_MIN, True)
    assert later.store.fact("compared_ms:m") == 0


SHIFT = Parameter(name="shift", goes_to="input", default=1.0, min=0.0, max=10.0)
THRESHOLD = Parameter(name="threshold", goes_to="client", default=0.5, min=0.0, max=1.0)
FIXED = Parameter(name="region", goes_to="client", default="eu", choices=("eu", "us"), site=False)
SHARE = Parameter(name="sampling", goes_to="telemetry", default=1.0, min=0.1, max=1.0)


def test_parameters_hold_within_bounds_from_the_next_request_on_and_are_reported(site: Site, publish: Callable[..., Release]) -> None:
    release = publish("1.0.0", affine(2.0), parameters=(SHIFT, THRESHOLD, FIXED, SHARE))
    settle(site, release)
    default = ask(site, shift=None).json()

    site.rollout.update(shift=2.0, threshold=0.6, sampling=0.25)
    site.slots.parameters_changed()
    by_rollout = ask(site, shift=None).json()
    (site.folder / "parameters.toml").write_text('[m]\nshift = 3.0\nthreshold = 7.0\nregion = "us"\nspeed = 1.0\n')
    site.turn_until(lambda: site.parameters._overrides.of("m") != {})
    by_site, own = ask(site, shift=None).json(), ask(site, shift=0.0).json()

    assert [one["outputs"][0]["data"] for one in (default, by_rollout, by_site, own)] == [[3.0], [4.0], [5.0], [2.0]]
    assert default["parameters"] == {"threshold": 0.5, "region": "eu"}
    assert by_site["parameters"] == {"threshold": 0.6, "region": "eu"}
    reported = {setting.name: setting for setting in site.slots.report_of()[0].parameters or ()}
    assert {name: (one.value, one.source, one.code) for name, one in reported.items()} == {
        "shift": (3.0, "site", None),
        "threshold": (0.6, "rollout", "parameter.bounds"),
        "region": ("eu", "release", "parameter.bounds"),
        "sampling": (0.25, "rollout", None),
    }
    assert site.effective_parameters[release.digest].telemetry_share == 0.25
    assert {refusal.code for refusal in site.refusals} == {Code.PARAMETER_BOUNDS, Code.PARAMETER_UNKNOWN}
    assert any("found speed" in refusal.reason for refusal in site.refusals)


def test_a_parameter_file_that_is_wrong_is_reported_and_what_it_said_before_holds(site: Site, publish: Callable[..., Release]) -> None:
    settle(site, publish("1.0.0", affine(2.0), parameters=(SHIFT,)))
    (site.folder / "parameters.toml").write_text("[m]\nshift = 3.0\n")
    site.turn_until(lambda: site.parameters._overrides.of("m") != {})
    (site.folder / "parameters.toml").write_text("[m\nshift = ")
    site.turn_until(lambda: bool(site.refusals))

    assert [refusal.code for refusal in site.refusals] == [Code.SETTINGS_INVALID]
    assert ask(site, shift=None).json()["outputs"][0]["data"] == [5.0]


def test_the_fetched_variant_is_loaded_even_if_another_would_fit_today(
    tmp_path: Path, contents: dict[bytes, bytes], publish: Callable[..., Release]
) -> None:
    release = publish("1.0.0", affine(2.0))
    other = affine(3.0)
    contents[sha256(other)] = other
    file = File(path="model.onnx", bytes=len(other), digest=sha256(other), blocks=(Block(sha256(other), len(other)),))
    manifest = release.manifest.model_copy(update={"variants": (*release.manifest.variants, Variant(name="int8", files=(file,)))})
    both = verified(manifest)
    site = Site(tmp_path / "n", contents)
    site.start()
    settle(site, both)
    assert site.slots.report_of()[0].variant == "fp32"
    site.server.stop()
    site.store.close()

    folder = tmp_path / "n" / "artifacts" / both.digest.hex()
    (folder / "fp32").rename(folder / "int8")  # as if the other one had been fetched
    (folder / "int8" / "model.onnx").write_bytes(other)
    again = Site(tmp_path / "n", contents)
    again.start()
    again.turn_until(lambda: again.server.loaded_of("m") == {both.digest})
    again.turn_until(lambda: len(again.receipts()) > 1)
    answer = ask(again, shift=0.0).json()
    again.server.stop()

    assert (again.slots.report_of()[0].variant, answer["outputs"][0]["data"]) == ("int8", [3.0])


def test_a_worker_that_dies_after_its_test_is_tried_again_after_a_restart(
    tmp_path: Path, contents: dict[bytes, bytes], publish: Callable[..., Release], monkeypatch: pytest.MonkeyPatch
) -> None:
    release = publish("1.0.0", affine(2.0))
    site = Site(tmp_path / "n", contents)
    site.start()
    settle(site, release)
    site.server.stop()
    site.store.close()

    again, died = Site(tmp_path / "n", contents, faster=20), []
    ready = again.slots.ready

    def dies_first(event: WorkerReady, now: float) -> None:
        process_id = again.server.loaded()[release.digest]
        if not died and process_id is not None:
            died.append(os.kill(process_id, signal.SIGKILL))
            until("its death", lambda: again.server.loaded()[release.digest] != process_id)
        ready(event, now)

    monkeypatch.setattr(again.slots, "ready", dies_first)
    monkeypatch.setattr(worker_pool, "RESTART_SECONDS_MAX", 0.0)
    again.start()
    again.turn_until(lambda: len(again.receipts()) > 1)
    answer = ask(again).json()
    again.server.stop()

    assert (len(died), answer["model_version"], said(again, release)) == (1, "1.0.0", ["serving", "serving"])
    assert again.slot().state == "active"
