"""Attacks on a real node: its whole word is refused with its own code, and it goes on serving within its memory and time."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import brokers
from tests.attacks import attacks_on_delivery, attacks_on_port, attacks_on_trust  # noqa: F401  # they add them to the list
from tests.attacks.catalogue import CPU_SECONDS_MAX, MEMORY_MIB_MAX, Attack, of
from tests.attacks.node_scene import HONEST, NodeScene
from tests.attacks.processes import until

pytestmark = [pytest.mark.attacks, pytest.mark.timeout(300)]


@pytest.fixture(scope="module", params=brokers.KINDS)
def scene(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeScene]:
    folder: Path = tmp_path_factory.mktemp("scene")
    with brokers.running(request.param, folder / "broker") as broker:
        made = NodeScene(broker, folder)
        yield made
        made.stop()


@pytest.fixture(scope="module")
def memory_mib(scene: NodeScene) -> float:
    """Of the node before the first attack."""
    scene.settle()
    return scene.node.memory_mib


@pytest.mark.parametrize("attack", [*of("port"), *of("transport"), *of("artifact"), *of("trust")], ids=str)
def test_a_node_refuses(scene: NodeScene, memory_mib: float, attack: Attack) -> None:
    scene.settle()
    since, cpu = scene.node.log_bytes, scene.node.cpu_seconds

    answered = attack.launch(scene)

    # The refusals of an attack before may still be coming in.
    found = answered or until(f"a refusal of {attack}", lambda: [code for code in scene.codes(since) if code in attack.codes])
    assert found[0] in attack.codes, found
    assert scene.served() == HONEST
    assert scene.node.cpu_seconds - cpu < CPU_SECONDS_MAX
    until("its memory", lambda: scene.node.memory_mib < memory_mib + MEMORY_MIB_MAX, seconds=20)
