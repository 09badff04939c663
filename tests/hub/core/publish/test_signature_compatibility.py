"""What programs meet of two releases: every way to differ is named with both sides, and what harms nobody is not."""

from dataclasses import replace

import pytest

from hub.core.publish.signature_compatibility import Signature, check_published, check_started, differences, predecessor
from schemas.errors import Code, Refused
from schemas.limits import TEXT_MAX
from schemas.manifest import Datatype, Tensor


def tensor(name: str, *shape: int, datatype: Datatype = "FP32") -> Tensor:
    return Tensor(name=name, datatype=datatype, shape=shape)


BEFORE = Signature("delay", "1.0.0", (tensor("input", -1, 3),), (tensor("p", -1, 2), tensor("q", -1)), frozenset(), ("onnx",))
SAME = replace(BEFORE, version="1.1.0")


def test_the_same_signature_breaks_nobody() -> None:
    assert differences(SAME, BEFORE) == ()


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"inputs": (tensor("x", -1, 4),)}, ("input 'input' FP32[-1, 3] of 1.0.0", "1.1.0", "takes 'x' FP32[-1, 4]")),
        ({"inputs": (tensor("input", -1, 4),)}, ("input 'input' is FP32[-1, 3] in 1.0.0, and FP32[-1, 4] in 1.1.0",)),
        ({"inputs": (tensor("input", 1, 3),)}, ("FP32[-1, 3] in 1.0.0, and FP32[1, 3] in 1.1.0",)),
        ({"inputs": (tensor("input", -1, 3, 1),)}, ("FP32[-1, 3] in 1.0.0, and FP32[-1, 3, 1] in 1.1.0",)),
        ({"inputs": (tensor("input", -1, 3, datatype="FP64"),)}, ("FP32[-1, 3] in 1.0.0, and FP64[-1, 3] in 1.1.0",)),
        ({"inputs": (*BEFORE.inputs, tensor("mask", -1))}, ("1.1.0 needs input 'mask' FP32[-1]", "1.0.0 does not have")),
        ({"outputs": (tensor("p", -1, 2),)}, ("output 'q' FP32[-1] of 1.0.0 is not in 1.1.0", "gives 'p' FP32[-1, 2]")),
        ({"outputs": (tensor("p", -1, 3), tensor("q", -1))}, ("output 'p' is FP32[-1, 2] in 1.0.0, and FP32[-1, 3] in 1.1.0",)),
        ({"outputs": (tensor("p", -1, 2, datatype="INT64"), tensor("q", -1))}, ("FP32[-1, 2] in 1.0.0, and INT64[-1, 2] in 1.1.0",)),
        ({"outputs": (tensor("q", -1), tensor("p", -1, 2))}, ("order p, q", "1.1.0 q, p")),
        ({"inputs": (), "outputs": (), "runtimes": ("files",)}, ("delay@1.0.0 (runtime onnx) is a model", "delay@1.1.0 (runtime files)")),
        ({"runtimes": ("onnx", "files")}, ("a model on some devices and files on others",)),
    ],
    ids=lambda value: str(value)[:60] if isinstance(value, tuple) else "",
)
def test_what_breaks_programs_is_named_with_both_sides(changed: dict[str, object], words: tuple[str, ...]) -> None:
    found = differences(replace(SAME, **changed), BEFORE)  # type: ignore[arg-type]

    assert found
    for word in words:
        assert word in "; ".join(found)


@pytest.mark.parametrize(
    "changed",
    [
        {"inputs": (tensor("input", -1, -1),)},
        {"outputs": (*BEFORE.outputs, tensor("r", -1))},
        {"inputs": (*BEFORE.inputs, tensor("threshold", 1)), "optional": frozenset({"threshold"})},
        {"inputs": BEFORE.inputs, "optional": frozenset({"input"})},
        {"runtimes": ("litert",)},
    ],
    ids=["free_axis", "output_appended", "input_with_a_value", "input_becomes_optional", "another_runtime_that_answers"],
)
def test_what_every_program_can_live_with_is_compatible(changed: dict[str, object]) -> None:
    assert differences(replace(SAME, **changed), BEFORE) == ()  # type: ignore[arg-type]


def test_inputs_may_stand_in_another_order_because_requests_name_them() -> None:
    two = (tensor("a", -1), tensor("b", -1))

    assert differences(replace(SAME, inputs=two[::-1]), replace(BEFORE, inputs=two)) == ()


def test_an_input_that_could_be_left_out_and_no_longer_can_breaks_programs() -> None:
    [found] = differences(SAME, replace(BEFORE, optional=frozenset({"input"})))

    assert found == "input 'input' may be left out in 1.0.0, and must be given in 1.1.0"


def test_files_may_follow_files_and_a_model_may_not() -> None:
    files = replace(BEFORE, inputs=(), outputs=(), runtimes=("files",))

    assert differences(replace(files, version="1.1.0"), files) == ()
    assert "files, which answer no request" in differences(SAME, files)[0]


def test_a_file_after_a_model_is_refused_with_what_to_publish_instead() -> None:
    with pytest.raises(Refused, match="--reference, or add --breaking") as caught:
        check_published(replace(SAME, inputs=(), outputs=(), runtimes=("files",)), BEFORE)

    assert caught.value.code is Code.RELEASE_BREAKING


def test_each_release_that_a_rollout_replaces_is_compared() -> None:
    check_started(SAME, [BEFORE])
    with pytest.raises(Refused, match=r"1\.1\.0 breaks programs that use delay@0\.9\.0, which it replaces"):
        check_started(SAME, [BEFORE, replace(BEFORE, version="0.9.0", inputs=(tensor("x", -1, 3),))])


def test_a_hundred_differences_fit_a_sentence() -> None:
    many = replace(BEFORE, inputs=tuple(tensor(f"{'n' * 60}{number}", -1, 3) for number in range(100)))

    with pytest.raises(Refused) as caught:
        check_published(SAME, many)

    assert len(caught.value.reason) <= 4 * TEXT_MAX
    assert caught.value.reason.endswith("--breaking if this is intended")


@pytest.mark.parametrize(
    ("version", "before"), [("1.0.1", "1.0.0"), ("1.10.0", "1.2.0"), ("2.0.0", "2.0.0-rc"), ("3.0.0", "2.0.0"), ("0.9.0", None)]
)
def test_the_predecessor_is_the_newest_release_below_by_version(version: str, before: str | None) -> None:
    assert predecessor(version, ["1.0.0", "1.2.0", "2.0.0-rc", "2.0.0"]) == before
