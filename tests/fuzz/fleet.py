"""A small fleet whose keys are the same in every process, so that a kept input is the same input later: signed metadata, for those who
stole keys, and a node that has to judge it.
"""

import json
import shutil
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from securesystemslib.formats import encode_canonical
from securesystemslib.signer import CryptoSigner

from hub.service.delivery import retained_topic_check as retained
from hub.signing.tuf_repository import Repository
from node.core.trust.unverified_metadata import claimed_version
from node.trust.envelopes import opened
from node.trust.timestamps import verified_time
from node.trust.tuf_client import Trust
from schemas import codec
from schemas.bundle import ManifestBytes, ModelBundle, TrustBundle, TrustRoles, TrustTime
from schemas.deployments import Envelope, signed_bytes
from schemas.device_settings import DeviceSettings
from schemas.errors import Refused, Unreachable
from schemas.limits import DEPLOYMENTS_BYTES_MAX
from schemas.names import sha256
from tests.fuzz.mutations import Msgpack
from tests.fuzz.target import Target
from tests.trust_fleet import HOUR, NAMES, NOW, Fleet
from tools.examples import EXAMPLES

LATER = NOW + 2 * HOUR
DEVICE_SETTINGS = next(one for one in EXAMPLES if isinstance(one, DeviceSettings))


def _signer(name: str) -> CryptoSigner:
    return CryptoSigner(Ed25519PrivateKey.from_private_bytes(sha256(f"fuzz {name}".encode())))


@cache
def fleet() -> Fleet:
    """Return the fleet with one release, rolled out and deployed."""
    keys = {name: _signer(name) for name in NAMES}
    repository = Repository.create(
        Path(tempfile.mkdtemp(prefix="fuzz-fleet-")),
        root_signers=[keys[f"root-{number}"] for number in (1, 2, 3)],
        threshold=2,
        targets=keys["targets"],
        snapshot=keys["snapshot"],
        timestamp=keys["timestamp"],
        rollouts=keys["rollouts"],
        team=keys["team"].public_key,
        models=("delay",),
        now=NOW,
    )
    found = Fleet(repository, keys, NOW)
    found.release("1.0.0")
    found.roll("1.0.0")
    found.deploy("1.0.0")
    found.refresh()
    return found


def again(kind: type[TrustBundle] | type[TrustRoles] | type[ModelBundle], data: bytes) -> Any:
    """Return the bundle that an input holds, with every role signed by the keys that the fleet has for it."""
    bundle: Any = codec.decode(kind, data)
    keys = fleet().keys
    roots = [keys[f"root-{number}"] for number in (1, 2, 3)]
    signers = {"timestamp": ["timestamp"], "snapshot": ["snapshot"], "targets": ["targets"], "rollouts": ["rollouts"], "role": ["team"]}
    changes: dict[str, Any] = {
        name: signed(getattr(bundle, name), [keys[one] for one in by]) for name, by in signers.items() if hasattr(bundle, name)
    }
    if hasattr(bundle, "roots"):
        changes["roots"] = tuple(signed(one, roots) for one in bundle.roots)
    return bundle.model_copy(update=changes)


def signed(role: bytes, signers: list[CryptoSigner]) -> bytes:
    """Return a role's bytes as signed by these keys; as they are where they cannot be signed."""
    try:
        found = json.loads(role)
        body = encode_canonical(found["signed"]).encode()
        found["signatures"] = [{"keyid": one.public_key.keyid, "sig": one.sign(body).signature} for one in signers]
        return json.dumps(found).encode()
    except Exception:  # Nobody could have signed it.
        return role


def _node(*, trusting: bool = True) -> Trust:
    """Return a node with a folder of its own, which the input's end takes away."""
    trust = Trust(Path(tempfile.mkdtemp(prefix="trust-", dir=_scratch())), fleet().repository.root())
    if trusting:
        trust.accept(fleet().repository.trust_bundle(), now=LATER)
    return trust


@cache
def _home() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="fuzz-node-")


def _scratch() -> str:
    return _home().name


_shared: list[Trust] = []


def _trusting() -> Trust:
    """Return one node for many inputs: what it refuses changes nothing."""
    if not _shared:
        _shared.append(_node())
    return _shared[0]


def _fresh(judge: Callable[[Trust], object]) -> None:
    trust = _node(trusting=False)
    try:
        judge(trust)
    finally:
        shutil.rmtree(trust._directory, ignore_errors=True)


def _stranger_bundle(data: bytes) -> None:
    _trusting().accept(codec.decode(TrustBundle, data), now=LATER)


def _signed_bundle(data: bytes) -> None:
    bundle = again(TrustBundle, data)

    def judge(trust: Trust) -> None:
        view = trust.accept(bundle, now=LATER)
        assert trust.accept(bundle, now=LATER) == view

    _fresh(judge)


def _signed_roles(data: bytes) -> None:
    roles = again(TrustRoles, data)
    _fresh(lambda trust: trust.accept_roles(roles, now=LATER))


def _model(data: bytes) -> None:
    bundle = again(ModelBundle, data)
    for one in _trusting().accept_model(bundle, now=LATER):
        assert one.manifest.model == bundle.model


def _timestamp(data: bytes) -> None:
    found = codec.decode(TrustTime, data).timestamp
    claimed_version(found, "timestamp")
    root = _trusting()._believed().roles.root  # type: ignore[union-attr]
    verified_time(signed(found, [fleet().keys["timestamp"]]), root)
    verified_time(found, root)


def _envelope(data: bytes) -> None:
    """Deployments and settings as the rollouts key signs them: whatever the payload."""
    purpose = "deployments" if data[:1] != b"\1" else "settings"
    key, payload = fleet().keys["rollouts"], data[1 : DEPLOYMENTS_BYTES_MAX + 1]
    envelope = Envelope(
        key=bytes.fromhex(key.public_key.keyid),
        signature=bytes.fromhex(key.sign(signed_bytes(purpose, payload)).signature),  # type: ignore[arg-type]
        payload=payload or b"\0",
    )
    if purpose == "deployments":
        try:
            _trusting().accept_deployments(envelope, model="delay", now=LATER)
        finally:
            shutil.rmtree(_trusting()._directory / "deployments", ignore_errors=True)
    else:
        keys = _trusting().rollout_keys() or {}
        codec.decode(DeviceSettings, opened(envelope, "settings", keys))


def _retained(data: bytes) -> None:
    """The hub reads what somebody else put on its topics: each judge answers with a refusal, and raises nothing."""
    hub, payload = fleet().repository, data[1:]
    trust = hub.trust_bundle()
    match data[0] % 5 if data else 0:
        case 0:
            found = retained.judge_trust(payload, trust)
        case 1:
            found = retained.judge_trust(payload, trust, kind=TrustRoles, what="trust roles")
        case 2:
            found = retained.judge_trust(payload, trust, kind=TrustTime, what="timestamp")
        case 3:
            found = retained.judge_model(payload, hub.model_bundle("delay", ["1.0.0"]), trust)
        case _:
            found = retained.judge_deployments(payload, hub.deployments("delay") or b"", "delay", trust)
    assert isinstance(found, Refused)


def _bundle() -> list[bytes]:
    return [codec.encode(fleet().repository.trust_bundle())]


def _roles() -> list[bytes]:
    return [codec.encode(fleet().repository.trust_roles())]


def _models() -> list[bytes]:
    bundle = fleet().repository.model_bundle("delay", ["1.0.0"])
    odd = bundle.model_copy(update={"manifests": (*bundle.manifests, ManifestBytes("1.0.1", b"\x80"))})
    return [codec.encode(bundle), codec.encode(odd)]


def _times() -> list[bytes]:
    return [codec.encode(TrustTime(timestamp=fleet().repository.trust_bundle().timestamp))]


def _envelopes() -> list[bytes]:
    return [b"\0" + codec.decode(Envelope, fleet().repository.deployments("delay") or b"").payload, b"\1" + codec.encode(DEVICE_SETTINGS)]


def _put() -> list[bytes]:
    kinds = [_bundle()[0], _roles()[0], _times()[0], _models()[0], fleet().repository.deployments("delay") or b""]
    return [bytes([number]) + one for number, one in enumerate(kinds)]


REFUSALS = (Refused, Unreachable)
TARGETS = (
    Target("trust_of_strangers", _stranger_bundle, _bundle, Msgpack(), REFUSALS),
    Target("trust_with_stolen_keys", _signed_bundle, _bundle, Msgpack(), REFUSALS),
    Target("roles_with_stolen_keys", _signed_roles, _roles, Msgpack(), REFUSALS),
    Target("models_with_a_stolen_key", _model, _models, Msgpack(), REFUSALS),
    Target("timestamps", _timestamp, _times, Msgpack(), REFUSALS),
    Target("signed_statements", _envelope, _envelopes, Msgpack(prefix=1), REFUSALS),
    Target("retained_topics", _retained, _put, Msgpack(prefix=1), ()),
)
