"""A release that breaks programs of the one before, by the real commands: told where it is met, and refused unless `--breaking` is said."""

import json
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from hub.cli.errors import Exit
from hub.core.nodes.device_settings import SetNodeSettings
from hub.core.rollouts.commands import Command, RemoveDeployment, SetDeployment, Start
from hub.database.node_commands import NodeCommand, NodeCommands
from hub.database.rows import CommandRow, NodeRow
from hub.database.store import Store
from hub.signing.tuf_repository import Repository
from schemas import codec
from schemas.names import sha256
from schemas.state import Profile, Slot, State
from tests.databases import url_of
from tests.hub.cli.fleets import Made, make
from tests.hub.cli.test_rollout import Hub


def model(path: Path, name: str, width: int) -> Path:
    """Write a model whose input is called `name` and has `width` columns."""
    given = helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, width])
    answer = helper.make_tensor_value_info("total", TensorProto.FLOAT, [None, 1])
    axes = helper.make_tensor("axes", TensorProto.INT64, [1], [1])
    graph = helper.make_graph([helper.make_node("ReduceSum", [name, "axes"], ["total"], keepdims=1)], "sum", [given], [answer], [axes])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A fleet with m@1.0.0 (input [-1, 3]), a renamed one in other.onnx, and a CSV."""
    made = make(tmp_path_factory.mktemp("breaking"), "m", "k")
    model(made.folder / "old.onnx", "input", 3)
    model(made.folder / "other.onnx", "x", 4)
    np.savetxt(made.folder / "rows.csv", np.ones((5, 3)), delimiter=",", header="a,b,c", comments="")
    done = made.publish("1.0.0", model="old.onnx")
    assert done.returncode == 0, done.stderr
    return made


def test_a_renamed_input_is_refused_at_publish_and_nothing_is_stored(made: Made) -> None:
    before = sorted(path.name for path in (made.fleet / "blocks").rglob("*"))

    done = made.publish("1.1.0", model="other.onnx")

    assert done.returncode == Exit.REFUSED
    assert "'input' FP32[-1, 3] of 1.0.0 is not in 1.1.0, which takes 'x' FP32[-1, 4]" in done.stderr
    assert "--breaking" in done.stderr
    assert "[release.breaking]" in done.stderr
    assert sorted(path.name for path in (made.fleet / "blocks").rglob("*")) == before


def test_a_csv_published_after_a_model_is_refused_with_the_mend(made: Made) -> None:
    done = made.publish("1.1.0", model="rows.csv")

    assert done.returncode == Exit.REFUSED
    assert "m@1.0.0 (runtime onnx) is a model that answers requests, and m@1.1.0 (runtime files) is files" in done.stderr
    assert "give data with --reference" in done.stderr


def test_a_version_between_two_is_compared_with_the_one_below(made: Made) -> None:
    """1.0.0 and 9.0.0 differ; 1.0.1 is like 1.0.0."""
    assert made.publish("9.0.0", "--breaking", model="other.onnx").returncode == 0

    assert made.publish("1.0.1", model="old.onnx").returncode == 0
    assert made.publish("9.0.1", model="old.onnx").returncode == Exit.REFUSED


def test_a_published_version_can_be_published_again_without_saying_so(made: Made) -> None:
    assert made.publish("8.0.0", "--breaking", model="other.onnx").returncode == 0

    assert made.publish("8.0.0", model="other.onnx").returncode == 0


def test_check_tells_and_passes_what_the_devices_would_run(made: Made) -> None:
    assert made.publish("7.0.0", "--breaking", model="other.onnx").returncode == 0

    done = made.run("check", "m@7.0.0", "--profile", "gateway", "--json")

    assert done.returncode == 0, done.stderr
    assert "would not work with this one: input 'input' FP32[-1, 3]" in done.stderr
    assert "is not in 7.0.0" in json.loads(done.stdout)[0]["breaks"][0]


def test_plan_says_what_breaks_at_how_many_nodes(made: Made) -> None:
    assert made.publish("5.0.0", "--breaking", model="other.onnx").returncode == 0
    serves(made, "n1", "1.0.0")
    serves(made, "n2", "5.0.0")

    done, as_json = made.run("plan", "m@5.0.0"), made.run("plan", "m@5.0.0", "--json")

    assert done.returncode == 0, done.stderr
    assert "Programs that use 1.0.0, which 1 of the nodes serve, would not work with it" in done.stdout
    assert "input 'input' FP32[-1, 3] of 1.0.0 is not in 5.0.0" in done.stdout
    assert "needs --breaking" in done.stdout
    [one] = json.loads(as_json.stdout)["breaks"]
    assert (one["version"], one["nodes"]) == ("1.0.0", 1)
    assert json.loads(made.run("plan", "m@1.0.0", "--json").stdout)["breaks"][0]["version"] == "5.0.0"


def serves(made: Made, node: str, version: str, *, model: str = "m", **labels: str) -> None:
    """Have a node's report in the hub's database: it serves this release."""
    digest = sha256(Repository(made.fleet / "trust").manifest(model, version))
    slot = Slot(model=model, state="active", serving=digest, serving_version=version, variant="default")
    runtimes, providers = ("onnx", "files"), ("CPUExecutionProvider",)
    profile = Profile(arch="x86_64", cores=1, memory_bytes=2**30, runtimes=runtimes, providers=providers, labels=labels)
    state = State(node=node, session=1, status="online", at=1, public_key=b"k", profile=profile, slots=(slot,))
    store = Store(url_of(made.fleet / "hub.sqlite"))
    store.upsert_node(NodeRow(node, 1, "online", 1, codec.encode(state), b"k", ""))
    store.close()


def test_start_is_refused_by_the_command_and_by_the_hub(made: Made) -> None:
    assert made.publish("6.0.0", "--breaking", model="other.onnx").returncode == 0
    with Hub(made):
        first = made.run("rollout", "start", "m@1.0.0", "--breaking")  # A node has another one, by the test above.
        refused = made.run("rollout", "start", "m@6.0.0", "--force")
        by_the_hub = answer_to(made, Start(version="6.0.0", force=True))
        insisted = made.run("rollout", "start", "m@6.0.0", "--force", "--breaking")

    assert first.returncode == 0, first.stderr
    assert refused.returncode == Exit.REFUSED
    assert "m@6.0.0 breaks programs that use m@1.0.0, which it replaces: input 'input' FP32[-1, 3]" in refused.stderr
    assert "add --breaking" in refused.stderr
    assert (by_the_hub.state, by_the_hub.code) == ("refused", "release.breaking")
    assert insisted.returncode == 0, insisted.stderr


def test_no_change_of_a_deployment_or_label_breaks_programs_unasked(made: Made) -> None:
    assert made.publish("1.0.0", model="old.onnx", name="k").returncode == 0
    assert made.publish("2.0.0", "--breaking", model="other.onnx", name="k").returncode == 0
    for node, version, ring in (("k1", "1.0.0", "old"), ("k2", "1.0.0", "old"), ("k3", "2.0.0", "new")):
        serves(made, node, version, model="k", ring=ring)
    with Hub(made):
        for words in (("hold", "--where", "ring=old", "--release", "1.0.0"), ("default", "--release", "2.0.0")):
            done = made.run("deploy", "set", "k", *words)
            assert done.returncode == 0, done.stderr
        refused = [
            made.run("deploy", "remove", "k", "hold"),
            made.run("deploy", "set", "k", "hold", "--where", "ring=new"),
            made.run("deploy", "set", "k", "above", "--where", "ring=old", "--priority", "90", "--release", "2.0.0"),
            made.run("rollout", "start", "k@2.0.0", "--where", "node in (k1,k2,k3)", "--deployment", "a"),
            made.run("nodes", "label", "--where", "ring=old", "ring=new", "--yes"),
        ]
        by_the_hub = [
            answer_to(made, RemoveDeployment(name="hold"), model="k"),
            answer_to(made, SetDeployment(name="hold", where="ring=new"), model="k"),
            labels_answered(made, SetNodeSettings(where="ring=old", labels={"ring": "new"})),
        ]
        insisted = made.run("deploy", "remove", "k", "hold", "--breaking")

    breaks = "k@2.0.0 breaks programs that use k@1.0.0, which {} and would leave for it: input 'input' FP32[-1, 3]"
    for done in refused:
        assert done.returncode == Exit.REFUSED, done.args
        assert "'input' FP32[-1, 3] of 1.0.0 is not in 2.0.0, which takes 'x' FP32[-1, 4]" in done.stderr
        assert "add --breaking" in done.stderr
    assert breaks.format("2 nodes have") in refused[0].stderr
    assert {(one.state, one.code) for one in by_the_hub} == {("refused", "release.breaking")}
    assert insisted.returncode == 0, insisted.stderr


def labels_answered(made: Made, wish: SetNodeSettings) -> NodeCommand:
    """Queue a change of labels as a program other than ours may, and wait for what the running hub says to it."""
    store = Store(url_of(made.fleet / "hub.sqlite"))
    commands = NodeCommands(store.database)
    number = commands.add(wish)
    deadline = time.monotonic() + 15
    while (answer := commands.get(number)) is None or answer.state == "open":
        assert time.monotonic() < deadline, "the hub has not answered"
        time.sleep(0.05)
    store.close()
    return answer


def answer_to(made: Made, command: Command, *, model: str = "m") -> CommandRow:
    """Queue a command as a program other than ours may, and wait for what the running hub says to it."""
    store = Store(url_of(made.fleet / "hub.sqlite"))
    number = store.add_command(model, command)
    deadline = time.monotonic() + 15
    while (answer := store.command(number)) is None or answer.state == "open":
        assert time.monotonic() < deadline, "the hub has not answered"
        time.sleep(0.05)
    store.close()
    return answer
