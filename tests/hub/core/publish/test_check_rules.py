"""A proof from a fast machine is judged as a slow one's, and a check counts for what was checked and nothing else."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from hub.core.publish.check_rules import BUILT_IN, Check, DeviceProfile, Result, chosen, content_of, judge, lacking
from schemas.limits import MIB
from schemas.manifest import Block, File, Golden, Limits, Manifest, Measured, Payload, Requirements, Tensor, Variant
from schemas.names import sha256
from schemas.parameters import Parameter
from schemas.proof import Proof
from schemas.receipt import Evidence

PI4, TINY = BUILT_IN["pi4"], BUILT_IN["tiny"]
TENSOR = Tensor(name="x", datatype="FP32", shape=(-1, 1))


def file(name: str = "model.onnx", data: bytes = b"model", payloads: tuple[Payload, ...] = ()) -> File:
    return File(path=name, bytes=len(data), digest=sha256(data), blocks=(Block(sha256(data), len(data), payloads),))


def manifest(**fields: Any) -> Manifest:
    variants = (Variant(name="default", files=(file(),)),)
    return Manifest(
        **{"model": "m", "version": "1.0.0", "created": 1, "inputs": (TENSOR,), "outputs": (TENSOR,), "variants": variants, **fields}
    )


def proof(latency_ms: float) -> Proof:
    return Proof(passed=True, evidence=Evidence(latency_ms=latency_ms, load_ms=100.0, memory_bytes=70 * MIB), cores=1)


def check(profile: DeviceProfile, *, passed: bool = True) -> Check:
    code = "" if passed else "model.too_slow"
    result = Result(profile=profile, variant="default", passed=passed, code=code, reason=code)
    return Check(content=content_of(manifest()), at=1, software="0", model="m", version="1.0.0", result=result)


@given(st.floats(0.01, 1e4), st.floats(0.1, 1e5), st.sampled_from(sorted(BUILT_IN)))
def test_a_latency_passes_exactly_when_it_would_within_the_slower_processors_time(latency_ms: float, limit: float, name: str) -> None:
    profile, release = BUILT_IN[name], manifest(limits=Limits(latency_ms_max=limit))

    result = judge(profile, release, proof(latency_ms), variant="default", limited_by="rlimit")

    assert result.passed == (latency_ms * profile.slowdown <= limit)
    assert result.latency_ms == latency_ms * profile.slowdown
    assert result.code == ("" if result.passed else "model.too_slow")


def test_a_refusal_stays_what_it_is() -> None:
    refused = Proof(passed=False, code="model.golden_mismatch", reason="y[0]: expected 1, found 2")

    result = judge(TINY, manifest(), refused, variant="default", limited_by="rlimit")

    assert (result.passed, result.code, result.reason, result.latency_ms) == (False, "model.golden_mismatch", refused.reason, None)


def test_a_profile_takes_the_variant_that_its_devices_take() -> None:
    needy = Variant(name="needy", requirements=Requirements(memory_bytes_min=512 * MIB), files=(file(),))
    release = manifest(variants=(needy,))

    refused = chosen(release, TINY)

    assert chosen(release, PI4) == "needy"
    assert isinstance(refused, Result)
    assert (refused.code, refused.passed) == ("release.no_variant", False)


def test_a_device_that_has_nothing_left_for_a_model_is_no_profile() -> None:
    with pytest.raises(ValidationError, match="leave nothing for a model"):
        DeviceProfile.model_validate({**TINY.model_dump(), "reserved_bytes": TINY.memory_bytes})


@pytest.mark.parametrize(
    "same",
    [
        {"version": "2.0.0", "created": 9, "description": "d", "licence": "MIT", "model": "other", "parent": bytes(32)},
        {"variants": (Variant(name="default", files=(file(payloads=(Payload("zstd", bytes(32), 3),)),)),)},
        {
            "variants": (
                Variant(
                    name="default",
                    files=(file(),),
                    measured=Measured(rows=1, metric="r2", score=1.0, original=1.0, latency_ms=1.0, original_latency_ms=1.0),
                ),
            )
        },
    ],
)
def test_how_a_release_is_named_and_delivered_does_not_matter_to_what_was_checked(same: dict[str, Any]) -> None:
    assert content_of(manifest(**same)) == content_of(manifest())


@pytest.mark.parametrize(
    "other",
    [
        {"limits": Limits(latency_ms_max=1.0)},
        {"variants": (Variant(name="default", files=(file(data=b"another"),)),)},
        {"variants": (Variant(name="int8", files=(file(),)),)},
        {"variants": (Variant(name="default", runtime="litert", files=(file(),)),)},
        {"variants": (Variant(name="default", files=(file(),), requirements=Requirements(cores_min=2)),)},
        {"golden": Golden(file=file("golden.npz", b"golden"))},
        {"golden": Golden(file=file("golden.npz", b"golden"), absolute_tolerance=1.0)},
        {"inputs": (Tensor(name="x", datatype="FP64", shape=(-1, 1)),)},
        {"parameters": (Parameter(name="threshold", goes_to="client", default=0.5, min=0.0, max=1.0),)},
    ],
)
def test_whatever_is_loaded_asked_or_compared_makes_it_another_thing_to_check(other: dict[str, Any]) -> None:
    assert content_of(manifest(**other)) != content_of(manifest())


def test_two_golden_files_are_told_apart() -> None:
    one, other = (manifest(golden=Golden(file=file("golden.npz", data))) for data in (b"one", b"two"))

    assert content_of(one) != content_of(other)


@pytest.mark.parametrize(
    ("checks", "required", "found"),
    [
        ({}, [], ["it was checked for no profile"]),
        ({}, ["pi4", "tiny"], ["it was not checked for pi4", "it was not checked for tiny"]),
        ({"pi4": check(PI4)}, [], []),
        ({"pi4": check(PI4)}, ["pi4"], []),
        ({"pi4": check(PI4), "tiny": check(TINY, passed=False)}, ["pi4"], []),
        ({"pi4": check(PI4), "tiny": check(TINY, passed=False)}, [], ["tiny refused it: model.too_slow [model.too_slow]"]),
    ],
)
def test_what_speaks_against_a_rollout(checks: dict[str, Check], required: list[str], found: list[str]) -> None:
    assert lacking(manifest(), checks, required) == found


def test_files_that_nobody_runs_need_no_check_unless_one_is_required() -> None:
    files = manifest(inputs=(), outputs=(), variants=(Variant(name="default", runtime="files", files=(file(),)),))

    assert lacking(files, {}, []) == []
    assert lacking(files, {}, ["pi4"]) == ["it was not checked for pi4"]
