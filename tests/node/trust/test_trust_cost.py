"""What a bundle costs before it is refused, whatever is in it: a broker's owner may send as many as they like."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from node.trust.tuf_client import Trust
from schemas import codec
from schemas.bundle import TrustBundle
from schemas.errors import Refused
from tests.trust_fleet import Fleet

SECONDS_MAX = 1.0  # of processor; it was 1.2 and more on an idle machine, and a hundredth of that is usual now


def with_field(root: bytes, version: int, field: Any) -> bytes:
    form = json.loads(root)
    form["signed"].update(version=version, x=field)
    return json.dumps(form, separators=(",", ":")).encode()


BOMBS: dict[str, Callable[[bytes], list[bytes]]] = {
    "lists in every role": lambda root: [with_field(root, version, [[]] * 300_000) for version in range(2, 8)],
    "maps in every role": lambda root: [with_field(root, version, [{}] * 300_000) for version in range(2, 8)],
    "numbers in every role": lambda root: [with_field(root, version, [1] * 450_000) for version in range(2, 8)],
    "as much as a bundle may have": lambda root: [with_field(root, version, [{}] * 31_000) for version in range(2, 6)],
    "a thousand roots": lambda root: [with_field(root, version, [{}] * 100) for version in range(2, 1000)],
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bundle_that_takes_long_to_parse_is_refused_at_once(name: str, tmp_path: Path) -> None:
    fleet = Fleet.make(tmp_path / "hub")
    bundle = fleet.refresh()
    trust = Trust(tmp_path / "node", bundle.roots[0])
    payload = codec.encode(bundle.model_copy(update={"roots": (*bundle.roots, *BOMBS[name](bundle.roots[0]))}))
    assert len(payload) < 32 * 1024

    began = time.process_time()
    with pytest.raises(Refused):
        trust.accept(codec.decode(TrustBundle, payload), now=fleet.now)

    assert time.process_time() - began < SECONDS_MAX
    assert trust.accept(bundle, now=fleet.now).root_version == 1


def test_a_fleet_of_a_thousand_models_is_far_within_the_bounds(tmp_path: Path) -> None:
    fleet = Fleet.make(tmp_path / "hub", models=[f"model-{number}" for number in range(1000)])
    bundle = fleet.refresh()

    view = Trust(tmp_path / "node", bundle.roots[0]).accept(bundle, now=fleet.now)

    assert len(view.models) == 1000
