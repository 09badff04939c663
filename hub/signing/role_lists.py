"""Read what signed roles list: a model's releases, and what stands of each model."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tuf.api.exceptions import LengthOrHashMismatchError
from tuf.api.metadata import TargetFile, Targets

from hub.signing.metadata_files import MetadataFiles, Stamp
from hub.signing.parsed_metadata import parsed
from schemas.bundle import role_name
from schemas.manifest import target_path
from schemas.names import version_key
from schemas.rollout import rollout_path

ROLLOUTS = "rollouts"  # The role that lists rollouts.


@dataclass(frozen=True, slots=True)
class Standing:
    """Hold what is signed of a model by numbers that change with it: its announcement stays as it is while they do."""

    release_role: int  # Version of the model's role that the snapshot lists; 0 where it lists none that counts.
    deployments: Stamp | None  # It changes with the file of its deployments.
    rollout: str | None  # Digest of what earlier nodes read.


def standing_of(folder: MetadataFiles, models: Iterable[str], removed: Mapping[str, int]) -> dict[str, Standing]:
    """Return what stands of each model as of the last refresh; `removed` has the versions of roles at which models were removed."""
    current, stamps = folder.current(), folder.stamps(folder.statements)
    listed = parsed(folder.read(folder.path(ROLLOUTS, current[ROLLOUTS]))).signed.targets
    found: dict[str, Standing] = {}
    for model in models:
        version, rollout = current.get(role_name(model), 0), listed.get(rollout_path(model))
        found[model] = Standing(
            release_role=version if version > removed.get(model, 0) else 0,
            deployments=stamps.get(model),
            rollout=rollout.hashes["sha256"] if rollout is not None else None,
        )
    return found


def versions_of(model: str, targets: Targets) -> list[str]:
    """Return the versions of a model that its role lists, oldest first."""
    return sorted((path.removeprefix(target_path(model, "")) for path in targets.targets), key=version_key)


def is_of(target: TargetFile, data: bytes) -> bool:
    """Return whether these are the bytes that a role lists."""
    try:
        target.verify_length_and_hashes(data)
    except LengthOrHashMismatchError:
        return False
    return True


def rollout_file(folder: MetadataFiles, model: str, target: TargetFile) -> Path:
    """Return the path of a rollout by its digest: the one that the snapshot lists stays while a newer one waits."""
    return folder.documents / rollout_path(model) / target.hashes["sha256"]


def unlisted_rollouts(folder: MetadataFiles, former: Iterable[bytes], listed: Mapping[str, TargetFile], *, sweeps: bool) -> list[Path]:
    """Return the files of rollouts that earlier roles list and the newest does not; with `sweeps`, those that no role lists, too."""
    found = [
        rollout_file(folder, path.removeprefix(rollout_path("")), target)
        for role in former
        for path, target in parsed(role).signed.targets.items()
        if path not in listed or listed[path].hashes != target.hashes
    ]
    kept = {target.hashes["sha256"] for target in listed.values()}
    return [*found, *(file for file in folder.matching(rollout_path("*/*")) if file.name not in kept)] if sweeps else found
