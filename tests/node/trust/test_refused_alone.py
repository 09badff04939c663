"""What a node does not understand is refused alone: trust advances, other models go on, and the refusal names the model."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgpack
import pytest
from tuf.api.metadata import TargetFile, Targets

from hub.signing.metadata_files import write
from hub.signing.role_lists import rollout_file
from node.agent.activation.manifests import Manifests
from node.storage.artifacts import Artifacts
from node.trust.tuf_client import Trust
from schemas import codec
from schemas.bundle import ModelBundle, TrustBundle
from schemas.errors import Code, Refused
from schemas.limits import ROLLOUT_BYTES_MAX
from schemas.manifest import Manifest
from schemas.names import sha256
from schemas.rollout import Rollout
from schemas.state import Profile
from tests.trust_fleet import Fleet, manifest, rollout


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    fleet = Fleet.make(tmp_path / "hub", models=("delay", "other"))
    for model in ("delay", "other"):
        fleet.release("1.0.0", model=model)
        fleet.roll("1.0.0", model=model)
    return fleet


@pytest.fixture
def trust(fleet: Fleet, tmp_path: Path) -> Trust:
    """A node that has seen the fleet's first bundle."""
    trust = Trust(tmp_path / "node", fleet.repository.root())
    deliver(trust, fleet)
    return trust


def deliver(trust: Trust, fleet: Fleet) -> Any:
    return trust.accept(codec.decode(TrustBundle, codec.encode(fleet.refresh())), now=fleet.now)


def sign(fleet: Fleet, model: str, document: bytes) -> None:
    fleet.repository.set_rollout(model, document, rollouts=fleet.keys["rollouts"], now=fleet.now)


def list_in_rollouts(fleet: Fleet, path: str, document: bytes) -> None:
    """Have the rollouts role list a path that our hub would not sign, and a newer one may."""
    repository, target = fleet.repository, TargetFile.from_data(path, document, ["sha256"])
    role = repository._folder.newest("rollouts", Targets).signed
    role.targets[path] = target
    write(rollout_file(repository._folder, path.removeprefix("rollouts/"), target), document)
    repository._next("rollouts", role, [fleet.keys["rollouts"]], fleet.now)


def changed(document: bytes, **fields: Any) -> bytes:
    """A document with other fields, in canonical form."""
    packed: bytes = msgpack.packb(codec._canonical({**msgpack.unpackb(document), **fields}))
    return packed


NEWER: list[tuple[str, Callable[[bytes], bytes], Code]] = [
    ("an unknown field", lambda one: changed(one, deployments=[1]), Code.SCHEMA_MALFORMED),
    ("an unknown state", lambda one: changed(one, state="paused"), Code.SCHEMA_MALFORMED),
    ("the next major version", lambda one: changed(one, **{"@": "rollout/2"}), Code.SCHEMA_UNSUPPORTED),
    ("more bytes than ours may have", lambda one: changed(one, notes=b"x" * ROLLOUT_BYTES_MAX), Code.SCHEMA_TOO_LARGE),
    ("another model's name", lambda one: changed(one, model="delay"), Code.TRUST_MISMATCH),
    ("no msgpack at all", lambda one: b"{}", Code.SCHEMA_MALFORMED),
]


@pytest.mark.parametrize(("what", "newer", "code"), NEWER, ids=[one[0] for one in NEWER])
def test_a_rollout_that_is_not_understood_is_refused_alone(
    fleet: Fleet, trust: Trust, what: str, newer: Callable[[bytes], bytes], code: Code
) -> None:
    before = trust.current(now=fleet.now)
    other = newer(rollout("1.0.0", serial=2, model="other"))
    sign(fleet, "other", other)
    fleet.roll("1.0.0", serial=2)

    view = deliver(trust, fleet)

    assert before is not None
    assert view.timestamp_version > before.timestamp_version
    assert {model: one.serial for model, one in view.rollouts.items()} == {"delay": 2}
    assert {model: refusal.code for model, refusal in view.refused.items()} == {"other": code}
    assert "rollout of other" in view.refused["other"].reason
    assert view.held["other"].serial == 1  # for its parameters: what runs keeps them


def test_a_refused_rollout_is_still_refused_after_a_restart(fleet: Fleet, trust: Trust, tmp_path: Path) -> None:
    sign(fleet, "other", changed(rollout("1.0.0", serial=2, model="other"), deployments=[1]))
    deliver(trust, fleet)

    view = Trust(tmp_path / "node", fleet.repository.root()).current(now=fleet.now)

    assert view is not None
    assert set(view.rollouts) == {"delay"}
    assert set(view.refused) == {"other"}


def test_the_last_rollout_that_was_understood_is_kept_over_restarts(fleet: Fleet, trust: Trust, tmp_path: Path) -> None:
    before = trust.current()
    assert before is not None
    sign(fleet, "other", changed(rollout("1.0.0", serial=2, model="other"), deployments=[1]))
    deliver(trust, fleet)

    again = Trust(tmp_path / "node", fleet.repository.root())
    restored = again.current()
    sign(fleet, "other", changed(rollout("1.0.0", serial=3, model="other"), deployments=[1]))
    later = deliver(again, fleet)
    assert restored is not None
    assert (restored.held, later.held) == ({"other": before.rollouts["other"]}, {"other": before.rollouts["other"]})

    fleet.roll("1.0.0", serial=4, model="other")
    assert not deliver(again, fleet).held
    assert not list((tmp_path / "node" / "held").iterdir())


@pytest.mark.parametrize("content", [b"", b"damaged", codec.encode(codec.decode(Rollout, rollout("1.0.0", model="delay")))])
def test_a_kept_rollout_that_is_damaged_is_left_out(fleet: Fleet, trust: Trust, tmp_path: Path, content: bytes) -> None:
    sign(fleet, "other", changed(rollout("1.0.0", serial=2, model="other"), deployments=[1]))
    deliver(trust, fleet)
    (tmp_path / "node" / "held" / "other").write_bytes(content)

    restored = Trust(tmp_path / "node", fleet.repository.root()).current()

    assert restored is not None
    assert (set(restored.refused), restored.held) == ({"other"}, {})


@pytest.mark.parametrize("name", ["Line_7", "a" * 200, "ümlaut", "a b"])
def test_a_rollout_of_a_model_whose_name_is_not_ours_is_refused_alone(fleet: Fleet, trust: Trust, name: str) -> None:
    list_in_rollouts(fleet, f"rollouts/{name}", changed(rollout("1.0.0", model="other"), model=name))

    view = deliver(trust, fleet)

    assert set(view.rollouts) == {"delay", "other"}
    assert set(view.refused) == {name}


def test_a_rollout_that_is_understood_again_is_followed_again(fleet: Fleet, trust: Trust) -> None:
    sign(fleet, "other", changed(rollout("1.0.0", serial=2, model="other"), deployments=[1]))
    deliver(trust, fleet)
    fleet.roll("1.0.0", serial=3, model="other")

    view = deliver(trust, fleet)

    assert view.rollouts["other"].serial == 3
    assert not view.refused
    assert not view.held


def test_a_serial_may_not_fall_behind_a_rollout_that_was_not_understood(fleet: Fleet, trust: Trust) -> None:
    fleet.roll("1.0.0", serial=5, model="other")
    deliver(trust, fleet)
    sign(fleet, "other", changed(rollout("1.0.0", serial=6, model="other"), deployments=[1]))
    deliver(trust, fleet)
    fleet.roll("1.0.0", serial=4, model="other")

    with pytest.raises(Refused) as refusal:
        deliver(trust, fleet)
    assert refusal.value.code == Code.TRUST_ROLLBACK


def test_statements_of_a_kind_that_is_not_known_are_passed_over(fleet: Fleet, trust: Trust) -> None:
    list_in_rollouts(fleet, "settings", b"later")
    bundle = fleet.refresh()
    documents = tuple(one for one in bundle.documents if one.document != b"later")

    view = trust.accept(bundle.model_copy(update={"documents": documents}), now=fleet.now)

    assert set(view.rollouts) == {"delay", "other"}
    assert not view.refused


def test_a_manifest_that_is_not_understood_is_refused_alone(fleet: Fleet, trust: Trust) -> None:
    newer = changed(manifest("1.1.0"), explanation={"method": "shap"})
    fleet.repository.add_release("delay", "1.1.0", newer, team=fleet.keys["team"], now=fleet.now)
    deliver(trust, fleet)
    bundle = codec.decode(ModelBundle, codec.encode(fleet.models("1.0.0", "1.1.0")))
    refusals: dict[str, Refused] = {}

    found = trust.accept_model(bundle, now=fleet.now, refused=refusals.__setitem__)

    assert [one.manifest.version for one in found] == ["1.0.0"]
    assert {version: one.code for version, one in refusals.items()} == {"1.1.0": Code.SCHEMA_MALFORMED}
    assert "release delay@1.1.0" in refusals["1.1.0"].reason


def test_a_manifest_with_a_newer_optional_section_is_used_and_kept_as_signed(fleet: Fleet, trust: Trust, tmp_path: Path) -> None:
    newer = changed(manifest("1.1.0"), **{"@.": Manifest.schema_minor + 1, "explanation": {"method": "shap"}})
    fleet.repository.add_release("delay", "1.1.0", newer, team=fleet.keys["team"], now=fleet.now)
    deliver(trust, fleet)
    artifacts, profile = Artifacts(tmp_path / "artifacts"), Profile(arch="any", cores=1, memory_bytes=2**30)

    (found,) = trust.accept_model(fleet.models("1.1.0"), now=fleet.now)
    Manifests(artifacts, profile).keep(found)

    assert (found.document, found.digest) == (newer, sha256(newer))
    assert Manifests(artifacts, profile).get(found.digest) == found.manifest
