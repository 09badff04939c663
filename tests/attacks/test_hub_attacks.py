"""Attacks on a real hub: each is refused with its own code, and the honest node goes on getting its blocks."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import brokers
from tests.attacks import attacks_on_hub  # noqa: F401  # it adds them to the list
from tests.attacks.catalogue import CPU_SECONDS_MAX, MEMORY_MIB_MAX, Attack, of
from tests.attacks.hub_scene import HubScene
from tests.attacks.processes import until

pytestmark = [pytest.mark.attacks, pytest.mark.timeout(300)]


# What a broker itself refuses: the embedded one has no access list, and docs/security.md says what that gives up.
CASES = [(kind, one) for kind in brokers.KINDS for one in [*of("access"), *of("fleet")] if one.group != "access" or kind == "mosquitto"]


@pytest.fixture(scope="module")
def scene(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubScene]:
    folder: Path = tmp_path_factory.mktemp("scene")
    with brokers.running(request.param, folder / "broker") as broker:
        made = HubScene(broker, folder)
        yield made
        made.stop()


@pytest.fixture(scope="module")
def memory_mib(scene: HubScene) -> float:
    """Of the hub before the first attack."""
    assert scene.serves()
    return scene.hub.memory_mib


@pytest.mark.parametrize(("scene", "attack"), CASES, indirect=["scene"], ids=str)
def test_a_hub_refuses(scene: HubScene, memory_mib: float, attack: Attack) -> None:
    since, cpu = scene.hub.log_bytes, scene.hub.cpu_seconds

    answered = attack.launch(scene)

    # The refusals of an attack before may still be coming in.
    found = answered or until(f"a refusal of {attack}", lambda: [code for code in scene.codes(since) if code in attack.codes])
    assert found[0] in attack.codes, found
    assert scene.serves()
    assert scene.hub.cpu_seconds - cpu < CPU_SECONDS_MAX
    until("its memory", lambda: scene.hub.memory_mib < memory_mib + MEMORY_MIB_MAX, seconds=20)
