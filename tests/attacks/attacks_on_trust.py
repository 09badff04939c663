"""TUF's and Uptane's catalogue, over a broker that the attacker has: what a node may believe of releases, roles and statements."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import msgpack
import zstandard
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, MetaFile, TargetFile, Targets

from hub.signing.envelopes import seal
from hub.signing.key_changes import RootHolders
from schemas import codec
from schemas.bundle import ManifestBytes, ModelBundle, TrustRoles, TrustTime
from schemas.device_settings import DeviceSettings
from schemas.errors import Code
from tests.attacks.catalogue import attack
from tests.attacks.node_scene import HONEST, MODEL, NODE, NodeScene, affine
from tests.trust_fleet import DAY, HOUR, Fleet, change_keys, forged, signed


def offer_roles(scene: NodeScene, **changes: Any) -> TrustRoles:
    """Put these in place of the newest roles, and have the node fetch them."""
    genuine = scene.newer_roles()
    made = {name: change(genuine) if callable(change) else change for name, change in changes.items()}
    scene.retain(scene.topics.trust_roles, codec.encode(genuine.model_copy(update=made)))
    scene.say_index()
    return genuine


def tampered(role: str) -> Callable[[TrustRoles], bytes]:
    def change(genuine: TrustRoles) -> bytes:
        return forged(getattr(genuine, role), expires=signed(getattr(genuine, role)).expires + DAY)

    return change


def offer_time(scene: NodeScene, timestamp: bytes) -> None:
    scene.retain(scene.topics.trust_time, codec.encode(TrustTime(timestamp=timestamp)))


def newer_time(scene: NodeScene, *signers: CryptoSigner, **changes: Any) -> bytes:
    """The present timestamp, a version on, with changes."""
    now = scene.fleet.repository.trust_roles().timestamp
    return forged(now, *signers, version=signed(now).version + 1, **changes)


def offer_statement(scene: NodeScene, payload: bytes, *, model: str = MODEL) -> None:
    scene.retain(scene.topics.deploy(model), payload)


# Tampered and truncated


@attack("trust", Code.TRUST_SIGNATURE)
def tampered_timestamp(scene: NodeScene) -> None:
    """A timestamp whose expiry was moved, with its old signature."""
    offer_time(scene, newer_time(scene))


@attack("trust", Code.TRUST_SIGNATURE)
def tampered_snapshot(scene: NodeScene) -> None:
    """A snapshot that was changed after it was signed."""
    offer_roles(scene, snapshot=tampered("snapshot"))


@attack("trust", Code.TRUST_SIGNATURE)
def tampered_targets(scene: NodeScene) -> None:
    """A targets role that was changed after it was signed."""
    offer_roles(scene, targets=tampered("targets"))


@attack("trust", Code.TRUST_SIGNATURE)
def unsigned_targets(scene: NodeScene) -> None:
    """A targets role without a signature."""

    def change(genuine: TrustRoles) -> bytes:
        metadata: Metadata[Any] = Metadata.from_bytes(genuine.targets)
        metadata.signatures.clear()
        return metadata.to_bytes()

    offer_roles(scene, targets=change)


@attack("trust", Code.SCHEMA_MALFORMED)
def truncated_roles(scene: NodeScene) -> None:
    """Half of a message of roles."""
    scene.retain(scene.topics.trust_roles, codec.encode(scene.newer_roles())[:300])
    scene.say_index()


@attack("trust", Code.SCHEMA_MALFORMED)
def truncated_role(scene: NodeScene) -> None:
    """A targets role that was cut off, in a message that is whole."""
    offer_roles(scene, targets=lambda genuine: genuine.targets[: len(genuine.targets) // 2])


@attack("trust", Code.SCHEMA_TOO_LARGE, Code.SCHEMA_MALFORMED)
def oversize_timestamp(scene: NodeScene) -> None:
    """A timestamp that is followed by spaces beyond its bound."""
    scene.retain(scene.topics.trust_time, b"x" * 5000)


@attack("trust", Code.SCHEMA_TOO_LARGE)
def endless_metadata(scene: NodeScene) -> None:
    """As much metadata as a packet may hold."""
    scene.retain(scene.topics.trust_roles, bytes(1_900_000))
    scene.newer_roles()
    scene.say_index()


@attack("trust", Code.SCHEMA_MALFORMED)
def deeply_nested_metadata(scene: NodeScene) -> None:
    """JSON of 50,000 levels in a role's place."""
    offer_roles(scene, snapshot=b'{"signed":' + b"[" * 50_000 + b"]" * 50_000 + b"}")


@attack("trust", Code.SCHEMA_MALFORMED)
def huge_integer_in_metadata(scene: NodeScene) -> None:
    """A version of 10,000 digits."""
    offer_roles(scene, snapshot=b'{"signed":{"_type":"snapshot","version":' + b"9" * 10_000 + b"}}")


@attack("trust", Code.SCHEMA_MALFORMED)
def duplicate_key_in_metadata(scene: NodeScene) -> None:
    """A version that stands twice."""
    offer_roles(scene, snapshot=b'{"signed":{"_type":"snapshot","version":1,"version":2}}')


@attack("trust", Code.SCHEMA_MALFORMED, Code.SCHEMA_TOO_LARGE)
def endless_root_chain(scene: NodeScene) -> None:
    """Two thousand versions of the root, each the first."""
    genuine = msgpack.unpackb(_unpacked(codec.encode(scene.newer_roles())))
    genuine["roots"] = genuine["roots"] * 2000
    scene.retain(scene.topics.trust_roles, _packed(msgpack.packb(genuine)))
    scene.say_index()


def _unpacked(payload: bytes) -> bytes:
    return zstandard.ZstdDecompressor().decompress(payload) if payload.startswith(zstandard.FRAME_HEADER) else payload


def _packed(document: bytes) -> bytes:
    return zstandard.ZstdCompressor(write_content_size=True).compress(document)


# Rollback, freeze, mix-and-match


@attack("trust", Code.TRUST_ROLLBACK)
def old_roles(scene: NodeScene) -> None:
    """Roles that the node has left behind."""
    old = scene.fleet.repository.trust_roles()
    scene.settle()
    scene.newer_roles()
    scene.retain(scene.topics.trust_roles, codec.encode(old))
    scene.say_index()


@attack("trust", Code.TRUST_ROLLBACK)
def old_snapshot_by_a_stolen_timestamp_key(scene: NodeScene) -> None:
    """An older snapshot, under a new timestamp that the thief signed."""
    old = scene.fleet.repository.trust_roles()
    scene.settle()
    genuine = scene.newer_roles()
    meta = MetaFile(signed(old.snapshot).version)
    timestamp = forged(genuine.timestamp, scene.fleet.keys["timestamp"], snapshot_meta=meta)
    scene.retain(scene.topics.trust_roles, codec.encode(old.model_copy(update={"timestamp": timestamp})))
    scene.say_index()


def stolen_snapshot(fleet: Fleet, genuine: TrustRoles, meta: dict[str, MetaFile]) -> dict[str, bytes]:
    """What the thief of the snapshot's and the timestamp's keys makes."""
    version = signed(genuine.snapshot).version
    return {
        "snapshot": forged(genuine.snapshot, fleet.keys["snapshot"], meta=meta),
        "timestamp": forged(genuine.timestamp, fleet.keys["timestamp"], snapshot_meta=MetaFile(version)),
    }


@attack("trust", Code.TRUST_ROLLBACK)
def snapshot_that_lists_an_older_role(scene: NodeScene) -> None:
    """A model's role taken back to its first version by stolen snapshot and timestamp keys."""
    scene.fleet.release("1.0.1")
    scene.settle()
    genuine = scene.newer_roles()
    meta = {**signed(genuine.snapshot).meta, f"model-{MODEL}.json": MetaFile(1)}
    scene.retain(scene.topics.trust_roles, codec.encode(genuine.model_copy(update=stolen_snapshot(scene.fleet, genuine, meta))))
    scene.say_index()


@attack("trust", Code.TRUST_INCOMPLETE)
def role_dropped_from_the_snapshot(scene: NodeScene) -> None:
    """A model's role that the snapshot no longer lists."""
    genuine = scene.newer_roles()
    meta = {name: one for name, one in signed(genuine.snapshot).meta.items() if name != f"model-{MODEL}.json"}
    scene.retain(scene.topics.trust_roles, codec.encode(genuine.model_copy(update=stolen_snapshot(scene.fleet, genuine, meta))))
    scene.say_index()


@attack("trust", Code.TRUST_MISMATCH)
def mix_and_match(scene: NodeScene) -> None:
    """Genuine targets of yesterday between genuine roles of today."""
    old = scene.fleet.repository.trust_roles()
    offer_roles(scene, targets=old.targets)


@attack("trust", Code.TRUST_MISMATCH, Code.TRUST_SIGNATURE)
def role_in_another_roles_place(scene: NodeScene) -> None:
    """The snapshot where the targets role is expected."""
    offer_roles(scene, targets=lambda genuine: genuine.snapshot)


@attack("trust", Code.TRUST_EXPIRED)
def expired_timestamp(scene: NodeScene) -> None:
    """A timestamp that is genuine, and over."""
    offer_time(scene, newer_time(scene, scene.fleet.keys["timestamp"], expires=scene.fleet.now - HOUR))


@attack("trust", Code.TRUST_EXPIRED)
def expired_snapshot(scene: NodeScene) -> None:
    """A snapshot that is genuine, and over."""
    genuine = scene.newer_roles()
    snapshot = forged(genuine.snapshot, scene.fleet.keys["snapshot"], expires=scene.fleet.now - HOUR)
    scene.retain(scene.topics.trust_roles, codec.encode(genuine.model_copy(update={"snapshot": snapshot})))
    scene.say_index()


@attack("trust", Code.TRUST_MISMATCH)
def two_timestamps_of_one_version(scene: NodeScene) -> None:
    """A timestamp with the version that is known, and another content."""
    now = scene.fleet.repository.trust_roles().timestamp
    offer_time(scene, forged(now, scene.fleet.keys["timestamp"], expires=scene.fleet.now + timedelta(hours=7)))


@attack("trust", Code.TRUST_SIGNATURE)
def timestamp_by_another_online_key(scene: NodeScene) -> None:
    """A timestamp that the snapshot's key signed."""
    offer_time(scene, newer_time(scene, scene.fleet.keys["snapshot"]))


@attack("trust", Code.TRUST_SIGNATURE)
def targets_by_the_rollouts_key(scene: NodeScene) -> None:
    """A targets role that an online key signed."""
    offer_roles(scene, targets=lambda genuine: forged(genuine.targets, scene.fleet.keys["rollouts"]))


@attack("trust", Code.TRUST_SIGNATURE, Code.TRUST_MISMATCH)
def roles_of_another_fleet(scene: NodeScene) -> None:
    """Everything genuine, of a fleet with other keys."""
    scene.newer_roles()
    other = Fleet.make(scene.folder / "another fleet", models=(MODEL,), now=scene.fleet.now)
    for _ in range(40):
        other.roles(after=timedelta())
    scene.retain(scene.topics.trust_roles, codec.encode(other.repository.trust_roles()))
    scene.say_index()


# Roots


def new_root(scene: NodeScene) -> tuple[TrustRoles, list[CryptoSigner]]:
    """The next root by new holders, signed as it has to be, and the holders before. The fleet itself goes on with it."""
    fleet, old = scene.fleet, scene.fleet.roots
    for number in (1, 2, 3):
        fleet.replace_key(f"root-{number}")
    holders = RootHolders([key.public_key for key in fleet.roots], 2)
    change_keys(fleet.repository, [*old, *fleet.roots], now=fleet.now, holders=holders)
    return scene.newer_roles(), old


def offer_roots(scene: NodeScene, genuine: TrustRoles, *roots: bytes) -> None:
    scene.retain(scene.topics.trust_roles, codec.encode(genuine.model_copy(update={"roots": roots})))
    scene.say_index()


@attack("trust", Code.TRUST_SIGNATURE)
def root_by_new_keys_only(scene: NodeScene) -> None:
    """A root that only its own new holders signed."""
    genuine, _ = new_root(scene)
    offer_roots(scene, genuine, *genuine.roots[:-1], forged(genuine.roots[-1], *scene.fleet.roots))


@attack("trust", Code.TRUST_SIGNATURE)
def root_under_its_threshold(scene: NodeScene) -> None:
    """A root that one of the old holders signed, where two must."""
    genuine, old = new_root(scene)
    offer_roots(scene, genuine, *genuine.roots[:-1], forged(genuine.roots[-1], old[0], *scene.fleet.roots))


@attack("trust", Code.TRUST_SIGNATURE)
def root_by_one_holder_twice(scene: NodeScene) -> None:
    """A root that one of the old holders signed twice."""
    genuine, old = new_root(scene)
    metadata: Metadata[Any] = Metadata.from_bytes(forged(genuine.roots[-1], old[0], *scene.fleet.roots))
    metadata.sign(old[0], append=True)
    offer_roots(scene, genuine, *genuine.roots[:-1], metadata.to_bytes())


@attack("trust", Code.TRUST_INCOMPLETE)
def gap_in_the_root_chain(scene: NodeScene) -> None:
    """A root whose predecessor is withheld."""
    new_root(scene)
    genuine, _ = new_root(scene)
    offer_roots(scene, genuine, *genuine.roots[:-2], genuine.roots[-1])


@attack("trust", Code.TRUST_MISMATCH)
def two_roots_of_one_version(scene: NodeScene) -> None:
    """The first root twice, the second time by a stranger."""
    genuine = scene.newer_roles()
    offer_roots(scene, genuine, *genuine.roots, forged(genuine.roots[0], scene.fleet.keys["stranger"]))


@attack("trust", Code.TRUST_SIGNATURE)
def root_by_revoked_holders(scene: NodeScene) -> None:
    """A root after the newest, signed by holders who were replaced."""
    genuine, old = new_root(scene)
    scene.say_roles(genuine)
    scene.settle()
    genuine = scene.newer_roles()
    next_root = forged(genuine.roots[-1], *old, version=signed(genuine.roots[-1]).version + 1)
    offer_roots(scene, genuine, *genuine.roots, next_root)


@attack("trust", Code.TRUST_SIGNATURE)
def timestamp_by_a_revoked_key(scene: NodeScene) -> None:
    """A timestamp by the key that the root has since replaced."""
    stolen = scene.fleet.keys["timestamp"]
    scene.fleet.replace_key("timestamp")
    scene.fleet.rekey("timestamp")
    scene.settle()
    offer_time(scene, newer_time(scene, stolen))


@attack("trust", Code.TRUST_ROLLBACK)
def fast_forward_and_recovery(scene: NodeScene) -> None:
    """Versions run ahead by a stolen timestamp key, so that the hub's look old; new keys undo it."""
    raised = forged(scene.fleet.repository.trust_roles().timestamp, scene.fleet.keys["timestamp"], version=2**40)
    since = scene.node.log_bytes
    offer_time(scene, raised)
    scene.wait(lambda: scene.node.logged("trust.accepted", since))
    offer_roles(scene)  # genuine, and refused
    scene.wait(lambda: str(Code.TRUST_ROLLBACK) in scene.codes(since))
    scene.fleet.replace_key("timestamp")
    scene.fleet.rekey("timestamp")


# Models and releases


def team_role(scene: NodeScene, key: str, version: str, document: bytes, *, model: str = MODEL, number: int | None = None) -> bytes:
    """A model's role that lists one release."""
    present = signed(scene.fleet.repository.model_bundle(model, (HONEST,)).role).version
    role = Targets(version=number if number is not None else present, expires=scene.fleet.now + 30 * DAY)
    path = f"models/{model}/{version}"
    role.targets[path] = TargetFile.from_data(path, document, ["sha256"])
    metadata = Metadata(role)
    metadata.sign(scene.fleet.keys[key])
    return metadata.to_bytes()


def offer_model(scene: NodeScene, bundle: ModelBundle) -> None:
    scene.retain(scene.topics.model(bundle.model), codec.encode(bundle))


def document(scene: NodeScene, version: str, **changes: Any) -> bytes:
    return codec.encode(scene.manifest(version, affine(6.0), **changes))


@attack("trust", Code.TRUST_SIGNATURE)
def release_by_a_stranger(scene: NodeScene) -> None:
    """A release that a key outside the fleet signed."""
    made = document(scene, "6.6.6")
    offer_model(
        scene, ModelBundle(model=MODEL, role=team_role(scene, "stranger", "6.6.6", made), manifests=(ManifestBytes("6.6.6", made),))
    )


@attack("trust", Code.TRUST_SIGNATURE)
def release_by_a_stolen_rollouts_key(scene: NodeScene) -> None:
    """A release that the key of the rollouts signed."""
    made = document(scene, "6.6.7")
    offer_model(
        scene, ModelBundle(model=MODEL, role=team_role(scene, "rollouts", "6.6.7", made), manifests=(ManifestBytes("6.6.7", made),))
    )


@attack("trust", Code.TRUST_MISMATCH)
def altered_manifest(scene: NodeScene) -> None:
    """A listed release with another manifest."""
    bundle = scene.models()
    offer_model(scene, bundle.model_copy(update={"manifests": (ManifestBytes(HONEST, document(scene, HONEST, description="mine")),)}))


@attack("trust", Code.TRUST_NOT_LISTED)
def manifest_that_is_not_listed(scene: NodeScene) -> None:
    """A manifest that its role does not list."""
    bundle = scene.models()
    offer_model(scene, bundle.model_copy(update={"manifests": (ManifestBytes("7.0.0", document(scene, "7.0.0")),)}))


@attack("trust", Code.TRUST_ROLLBACK)
def old_role_of_a_model(scene: NodeScene) -> None:
    """A model's role as it was before its newest release."""
    old = scene.models()
    scene.fleet.release("1.0.2")
    scene.settle()
    offer_model(scene, old)


@attack("trust", Code.TRUST_NOT_LISTED, Code.TRUST_MISMATCH, Code.TRUST_ROLLBACK)
def role_of_another_model(scene: NodeScene) -> None:
    """Another model's genuine role, by the same team, on this model's topic."""
    other = scene.models(model="other")
    scene.retain(scene.topics.model(MODEL), codec.encode(other.model_copy(update={"model": MODEL})))


@attack("trust", Code.SCHEMA_MALFORMED)
def model_on_another_models_topic(scene: NodeScene) -> None:
    """Another model's whole message on this model's topic."""
    scene.retain(scene.topics.model(MODEL), codec.encode(scene.models(model="other")))


@attack("trust", Code.SCHEMA_TOO_LARGE, Code.SCHEMA_MALFORMED)
def bomb_in_a_model_message(scene: NodeScene) -> None:
    """32 KB that expand to 1 GiB."""
    scene.retain(scene.topics.model(MODEL), zstandard.ZstdCompressor(write_content_size=True).compress(bytes(2**30)))


# Statements and settings


@attack("trust", Code.TRUST_SIGNATURE)
def statement_by_a_stranger(scene: NodeScene) -> None:
    """A statement that a stranger signed."""
    offer_statement(scene, scene.sealed(scene.statement("6.6.6", serial=scene.serial + 1), key="stranger"))


@attack("trust", Code.TRUST_SIGNATURE)
def statement_by_a_teams_key(scene: NodeScene) -> None:
    """A statement that a team signed."""
    offer_statement(scene, scene.sealed(scene.statement("6.6.6", serial=scene.serial + 1), key="team"))


@attack("trust", Code.TRUST_ROLLBACK)
def old_statement(scene: NodeScene) -> None:
    """A statement that the node has left behind."""
    offer_statement(scene, scene.sealed(scene.statement(HONEST, serial=scene.serial - 1)))


@attack("trust", Code.TRUST_MISMATCH, Code.TRUST_ROLLBACK)
def two_statements_of_one_serial(scene: NodeScene) -> None:
    """Another statement with the serial that is known."""
    offer_statement(scene, scene.sealed(scene.statement("1.0.1", serial=scene.serial)))


@attack("trust", Code.TRUST_EXPIRED)
def expired_statement(scene: NodeScene) -> None:
    """A statement that is genuine, and over."""
    offer_statement(scene, scene.sealed(scene.statement(HONEST, serial=scene.serial + 1, days=-1)))


@attack("trust", Code.TRUST_MISMATCH)
def statement_about_another_model(scene: NodeScene) -> None:
    """Another model's genuine statement on this model's topic."""
    offer_statement(scene, scene.sealed(scene.statement(HONEST, serial=scene.serial + 1, model="other")))


@attack("trust", Code.TRUST_SIGNATURE)
def altered_statement(scene: NodeScene) -> None:
    """A statement that was changed after it was signed."""
    envelope = seal("deployments", codec.encode(scene.statement(HONEST, serial=scene.serial + 1)), scene.fleet.keys["rollouts"])
    other = codec.encode(scene.statement("6.6.6", serial=scene.serial + 1))
    offer_statement(scene, codec.encode(envelope.model_copy(update={"payload": other})))


@attack("trust", Code.TRUST_SIGNATURE)
def statement_signed_for_another_purpose(scene: NodeScene) -> None:
    """A statement in an envelope that was signed for settings."""
    said = codec.encode(scene.statement("6.6.6", serial=scene.serial + 1))
    offer_statement(scene, codec.encode(seal("settings", said, scene.fleet.keys["rollouts"])))


@attack("trust", Code.SCHEMA_MALFORMED)
def statement_of_junk(scene: NodeScene) -> None:
    """Bytes that are no statement."""
    offer_statement(scene, b"\x81 no msgpack")


@attack("trust", Code.SCHEMA_MALFORMED)
def index_of_junk(scene: NodeScene) -> None:
    """Bytes that are no index of deployments."""
    scene.retain(scene.topics.deployed, b"\xc1" * 100)


def offer_settings(
    scene: NodeScene, *, node: str = NODE, key: str = "rollouts", days: float = 1, serial: int = 1, purpose: Any = "settings"
) -> None:
    expires = int((scene.fleet.now + days * DAY).timestamp())
    said = DeviceSettings(node=node, serial=serial, expires=expires, labels={"ring": "canary"})
    scene.retain(scene.topics.settings(NODE), codec.encode(seal(purpose, codec.encode(said), scene.fleet.keys[key])))


@attack("trust", Code.TRUST_SIGNATURE)
def settings_by_a_stranger(scene: NodeScene) -> None:
    """Settings of the node that a stranger signed."""
    offer_settings(scene, key="stranger")


@attack("trust", Code.TRUST_MISMATCH)
def settings_of_another_node(scene: NodeScene) -> None:
    """Another node's genuine settings on this node's topic."""
    offer_settings(scene, node="n2")


@attack("trust", Code.TRUST_EXPIRED)
def expired_settings(scene: NodeScene) -> None:
    """Settings that are genuine, and over."""
    offer_settings(scene, days=-1)


@attack("trust", Code.TRUST_SIGNATURE)
def settings_signed_for_another_purpose(scene: NodeScene) -> None:
    """Settings in an envelope that was signed for statements."""
    offer_settings(scene, purpose="deployments")


@attack("trust", Code.TRUST_ROLLBACK)
def old_settings(scene: NodeScene) -> None:
    """Settings that the node has left behind."""
    since = scene.node.log_bytes
    offer_settings(scene, serial=9)
    scene.wait(lambda: scene.node.logged("settings.accepted", since, serial=9))
    offer_settings(scene, serial=8)


# The last of them, since it takes a key out


@attack("trust", Code.TRUST_SIGNATURE)
def release_by_a_revoked_team_key(scene: NodeScene) -> None:
    """Releases by a team whose key the targets role has replaced since."""
    old, fleet = scene.models(), scene.fleet
    fleet.replace_key("team")
    fleet.repository.delegate(MODEL, team=fleet.keys["team"].public_key, targets=fleet.keys["targets"], now=fleet.now)
    roles = scene.newer_roles()
    scene.say_roles(roles)
    scene.wait(lambda: scene.believes(roles))
    offer_model(scene, old)
