"""From a release as it is written down to a request that can be built: reads what it names, and finds what it may be a delta of.

`hub.operations.publishing` signs and stores what is built; a release that is only tried is built elsewhere.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from hub.core.publish.signature_compatibility import Signature, predecessor
from hub.operations.packet_limit import packet_bytes_max
from hub.publish.parent_files import parent_files
from hub.signing.tuf_repository import Repository
from schemas import codec
from schemas.errors import Code, mismatch
from schemas.limits import BLOCK_BYTES_MAX, HEADER_BYTES, PACKET_BYTES_MAX, PAYLOADS_PER_BLOCK_MAX
from schemas.manifest import Manifest
from schemas.names import sha256
from schemas.signals import Season
from schemas.state import State

if TYPE_CHECKING:
    from hub.database.store import Store
    from hub.operations.opened_fleet import OpenedFleet
    from hub.publish.publish_request import Answers, FeatureOrder, PublishRequest, Truth, Variants
    from hub.publish.release_file import ReleaseFile

Tell = Callable[[str, int, int], None]  # Reports a step: what, how many are done, of how many.


def request_for(release: "ReleaseFile", *, tell: Tell, answers: "Answers | None" = None) -> "PublishRequest":
    """Return what is to be built, without a parent; everything that it names is read.

    Raises:
        Refused: REFERENCE_INVALID: a reference, held-out or calibration data that cannot be read.
    """
    from hub.publish.publish_request import GoldenTerms, PublishRequest  # noqa: PLC0415
    from hub.publish.reference_data import read_reference  # noqa: PLC0415  # pyarrow takes a while to import

    reference, golden = release.reference, release.golden
    truth = release.accuracy.truth if release.accuracy else None
    return PublishRequest(
        model_path=release.model,
        name=release.name,
        version=release.version,
        reference=read_reference(reference.data).without(truth) if reference else None,
        blocks_column=reference.blocks if reference else None,
        feature_columns=reference.columns if reference else None,
        signals=reference.signals if reference else None,
        golden_path=golden.data,
        proves=golden.proof,
        fixes_shapes=release.fix_shapes,
        golden_terms=GoldenTerms(golden.relative_tolerance, golden.absolute_tolerance, golden.text_agreement_min),
        description=release.description,
        licence=release.licence,
        runtime=release.runtime,
        inputs=release.inputs,
        outputs=release.outputs,
        input_shapes=release.input_shapes or {},
        parameters=release.parameters,
        variants=_variants(release),
        more_files=release.files,
        block_bytes_max=release.block_bytes or BLOCK_BYTES_MAX,
        limits=release.limits,
        states_joining=bool(release.state_joining),
        epsilon=release.privacy.epsilon,
        delta=release.privacy.delta,
        window_seconds=release.privacy.window_seconds,
        noise=release.privacy.noise,
        accuracy=_accuracy(release),
        calibration_rows=release.privacy.own_rows(watches=reference is not None),
        calibrates_by_default=release.privacy.calibration_rows is None,
        rho_day_max=release.privacy.rho_day_max,
        time_column=reference.time if reference else None,
        season=reference.season if reference else Season(hours=4, weekends=True),
        answers=answers,
        progress=tell,
    )


def _accuracy(release: "ReleaseFile") -> "Truth | None":
    from hub.publish.publish_request import Truth  # noqa: PLC0415
    from hub.publish.reference_accuracy import read_counts  # noqa: PLC0415
    from hub.publish.sample_reader import read_rows  # noqa: PLC0415

    accuracy, reference = release.accuracy, release.reference
    if accuracy is None:
        return None
    if accuracy.counts is not None:
        return Truth(counts=read_counts(accuracy.counts), epsilon=accuracy.epsilon, window_seconds=accuracy.window_seconds)
    data = accuracy.data or (reference.data if reference else None)
    if data is None:
        raise mismatch(Code.SETTINGS_INVALID, "accuracy.data, in which truth is a column", expected="a file, or a reference", actual="none")
    passed_over = [name for name in (reference.time, reference.blocks) if name] if reference else []
    passed_over += [release.variants.truth] if release.variants.truth else []  # one table may serve both
    blocks = accuracy.blocks or (reference.blocks if reference else None)
    return Truth(
        rows=read_rows(data, truth=accuracy.truth, passed_over=passed_over, blocks=blocks),
        output=accuracy.output,
        right_within=accuracy.right_within,
        epsilon=accuracy.epsilon,
        window_seconds=accuracy.window_seconds,
    )


def _variants(release: "ReleaseFile") -> "Variants":
    from hub.publish.publish_request import Variants  # noqa: PLC0415
    from hub.publish.sample_reader import read_rows  # noqa: PLC0415

    wanted = release.variants
    passed_over = [name for name in (release.reference.blocks, release.reference.time) if name] if release.reference else []
    if wanted.truth is not None and wanted.held_out is None:
        raise mismatch(Code.SETTINGS_INVALID, "variants.held_out, in which truth is a column", expected="a file", actual="none")
    if release.accuracy is not None:  # one table may serve both
        passed_over += [name for name in (release.accuracy.truth, release.accuracy.blocks) if name]
    unlabelled = [*passed_over, *([wanted.truth] if wanted.truth else [])]  # calibration may be cut from the same table
    return Variants(
        builds=release.builds,
        loss_max=wanted.loss_max,
        all_or_none=wanted.all_or_none,
        held_out=read_rows(wanted.held_out, truth=wanted.truth, passed_over=passed_over) if wanted.held_out else None,
        output=wanted.output,
        calibration=read_rows(wanted.calibration, passed_over=unlabelled) if wanted.calibration else None,
    )


def signature_before(repository: Repository, model: str, version: str) -> Signature | None:
    """Return what the newest release below this version takes and gives; None where there is none."""
    return release_before(repository, model, version)[0]


def release_before(repository: Repository, model: str, version: str) -> "tuple[Signature | None, FeatureOrder | None]":
    """Return what the newest release below this version takes and gives, and the order of its columns; None where there is none."""
    from hub.publish.publish_request import FeatureOrder  # noqa: PLC0415

    before = predecessor(version, repository.releases(model) if model in repository.models() else ())
    if before is None:
        return None, None
    manifest = codec.decode(Manifest, repository.manifest(model, before))
    return Signature.of(manifest), FeatureOrder.of(manifest)


def fleet_archs(store: "Store") -> frozenset[str]:
    """Return the architectures that nodes of the fleet have reported."""
    return frozenset(state.profile.arch for state in _states(store) if state.profile is not None)


def earlier_nodes(store: "Store") -> list[str]:
    """Return the nodes that read no minor versions: they refuse a manifest with a field that a later version added."""
    return sorted(state.node for state in _states(store) if state.findings is None)


def _states(store: "Store") -> "Iterator[State]":
    return (codec.decode(State, row.state) for row in store.counted_nodes())


@contextmanager
def with_parents(request: "PublishRequest", fleet: "OpenedFleet", *, parent: str | None) -> "Iterator[PublishRequest]":
    """Yield the request with its parents: their files exist while it is built."""
    repository, directory = fleet.repository, fleet.directory
    model, version, known = request.name, request.version, repository.releases(request.name)
    before = codec.decode(Manifest, repository.manifest(model, version)) if version in known else None
    if before is not None and parent is None:
        parent_digest = before.parent
    else:
        follows = parent or (known[-1] if known and known[-1] != version else None)
        parent_digest = sha256(repository.manifest(model, follows)) if follows else None
    parents = _parents(fleet, model, parent_digest, before)
    with parent_files(list(parents.values()), fleet.blocks, directory) as files:
        yield replace(request, parent=parent_digest, parents=files, parent_releases=tuple(parents))


def _parents(fleet: "OpenedFleet", model: str, parent: bytes | None, before: Manifest | None) -> Mapping[bytes, Manifest]:
    """Return the releases that a new one is encoded against: what most nodes run and its parent, or those that `before` names."""
    repository = fleet.repository
    manifests = {sha256(one): codec.decode(Manifest, one) for one in (repository.manifest(model, v) for v in repository.releases(model))}
    if before is not None:
        return {digest: manifests[digest] for digest in before.parents or () if digest in manifests}
    running: Counter[bytes] = Counter()
    for row in fleet.store.counted_nodes():
        running.update(slot.serving for slot in codec.decode(State, row.state).slots if slot.serving is not None)
    most = [digest for digest, _ in running.most_common() if digest in manifests]
    chosen = dict.fromkeys([*most, *([parent] if parent in manifests else [])])
    return {digest: manifests[digest] for digest in list(chosen)[: PAYLOADS_PER_BLOCK_MAX - 1]}


def block_bytes_for(fleet: "OpenedFleet", asked: int | None) -> int:
    """Return the largest block that the broker's packets allow, or the size that the operator gave.

    Raises:
        Refused: PACKET_TOO_SMALL: the broker takes less than asked for.
    """
    packet_bytes = packet_bytes_max(fleet) or PACKET_BYTES_MAX  # Where no hub runs, it will say so if its broker takes less.
    fits = min(BLOCK_BYTES_MAX, packet_bytes - HEADER_BYTES)
    if asked is not None and asked > fits:
        raise mismatch(Code.PACKET_TOO_SMALL, "--block-bytes for this broker", expected=f"at most {fits}", actual=asked)
    return asked or min(fits, fleet.settings.block_bytes_max)
