"""Judges a release's proof under the limits of a kind of device, and says which releases a check is a check of.

Knows no process, file or clock: the proof was made elsewhere, on another processor. Its times are multiplied by the profile's `slowdown`,
which is an estimate and is called one wherever it is shown.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Final, Literal, Self

from pydantic import Field, model_validator

from schemas.document import Fact
from schemas.errors import Code, Refused, mismatch
from schemas.limits import LABELS_MAX, MIB, TEXT_MAX
from schemas.manifest import Manifest
from schemas.names import Digest, Label, ModelName, Version
from schemas.proof import Proof
from schemas.quantities import Count, Seconds
from schemas.receipt import Evidence
from schemas.state import Profile
from schemas.variant_choice import choose

GIB: Final = 1024 * MIB
LimitedBy = Literal["cgroup", "rlimit", "nothing"]


class DeviceProfile(Fact):
    """Describe a kind of device. `reserved_bytes` is what its system, the agent and other programs hold: the rest is the model's.

    `slowdown`: how many times slower a core is than one of the machine that checks; a faster one is judged as if it were not.
    """

    name: Label
    arch: Label
    cores: Annotated[int, Field(ge=1, le=4096)]
    memory_bytes: Annotated[int, Field(ge=64 * MIB, le=2**53)]
    reserved_bytes: Count
    slowdown: Annotated[float, Field(ge=1, le=1000)]
    threads: Annotated[int, Field(ge=1, le=256)] = 1  # as `threads` in its node.toml
    providers: Annotated[tuple[Label, ...], Field(max_length=16)] = ("CPUExecutionProvider",)
    runtimes: Annotated[tuple[Label, ...], Field(max_length=16)] | None = None  # None: any
    labels: Annotated[dict[Label, Label], Field(max_length=LABELS_MAX, default_factory=dict)]

    @model_validator(mode="after")
    def _has_room(self) -> Self:
        if self.model_bytes < MIB:
            raise ValueError(f"of memory_bytes {self.memory_bytes}, reserved_bytes {self.reserved_bytes} leave nothing for a model")
        return self

    @property
    def model_bytes(self) -> int:
        """Return the memory that a model's worker may hold."""
        return self.memory_bytes - self.reserved_bytes

    @property
    def reported(self) -> Profile:
        """Return the profile that such a device reports to its hub."""
        return Profile(
            arch=self.arch,
            cores=self.cores,
            memory_bytes=self.memory_bytes,
            providers=self.providers,
            labels=self.labels,
            runtimes=self.runtimes,
        )


def _built_in(name: str, arch: str, cores: int, memory_bytes: int, reserved_bytes: int, slowdown: float) -> DeviceProfile:
    fields = {"name": name, "arch": arch, "cores": cores, "memory_bytes": memory_bytes, "labels": {}}
    return DeviceProfile.model_validate({**fields, "reserved_bytes": reserved_bytes, "slowdown": slowdown})


# The slowdowns are round numbers, for a core of a present server beside a Cortex-A72, a Cortex-A76, an Atom and a Cortex-A53. Who has such
# a device has a better one: the latency in its receipt over the one that `fleetcast check` measured.
BUILT_IN: Final[Mapping[str, DeviceProfile]] = {
    one.name: one
    for one in (
        _built_in("pi4", "aarch64", 4, 4 * GIB, 512 * MIB, 5.0),
        _built_in("pi5", "aarch64", 4, 8 * GIB, 512 * MIB, 2.5),
        _built_in("gateway", "x86_64", 2, 2 * GIB, 512 * MIB, 3.0),
        _built_in("tiny", "aarch64", 1, 256 * MIB, 128 * MIB, 12.0),
    )
}


class Result(Fact):
    """Hold the outcome of a release under one profile. `evidence` was measured on the machine that checked, not multiplied by anything."""

    profile: DeviceProfile
    variant: Label | None = None
    passed: bool
    code: Annotated[str, Field(max_length=64)] = ""
    reason: Annotated[str, Field(max_length=4 * TEXT_MAX)] = ""
    evidence: Evidence | None = None
    cores: Annotated[int, Field(ge=1, le=4096)] | None = None  # that it could use; fewer than the profile's on a small machine
    limited_by: LimitedBy = "nothing"  # what kept it within the profile's memory

    @property
    def load_ms(self) -> float | None:
        """Return the load time, estimated on the device."""
        return self.evidence.load_ms * self.profile.slowdown if self.evidence else None

    @property
    def latency_ms(self) -> float | None:
        """Return the latency, estimated on the device."""
        return self.evidence.latency_ms * self.profile.slowdown if self.evidence else None


class Check(Fact):
    """Hold a result that is kept. `content` is what was checked, see `content_of`; `release` is set where it was published already."""

    content: Digest
    at: Seconds
    software: Annotated[str, Field(max_length=64)]
    model: ModelName
    version: Version
    release: Digest | None = None
    result: Result


def chosen(manifest: Manifest, profile: DeviceProfile) -> str | Result:
    """Return the variant that such a device takes, or the refusal."""
    try:
        return choose(manifest, profile.reported).name
    except Refused as refusal:
        return Result(profile=profile, passed=False, code=str(refusal.code), reason=refusal.reason[: 4 * TEXT_MAX])


def judge(profile: DeviceProfile, manifest: Manifest, proof: Proof, *, variant: str, limited_by: LimitedBy) -> Result:
    """Judge the proof as it would have ended on the device: a latency that is within the limit here may not be there."""
    found = Result(
        profile=profile,
        variant=variant,
        passed=proof.passed,
        code=proof.code,
        reason=proof.reason,
        evidence=proof.evidence,
        cores=proof.cores,
        limited_by=limited_by,
    )
    limit, estimate = manifest.limits.latency_ms_max, found.latency_ms
    if not found.passed or proof.evidence is None or estimate is None or estimate <= limit:
        return found
    refusal = mismatch(
        Code.MODEL_TOO_SLOW,
        f"estimated latency of a request on {profile.name} ({proof.evidence.latency_ms:.3g} ms here, times {profile.slowdown:g})",
        expected=f"at most {limit:g} ms",
        actual=f"{estimate:.3g} ms",
    )
    return found.model_copy(update={"passed": False, "code": str(refusal.code), "reason": refusal.reason})


def content_of(manifest: Manifest) -> bytes:
    """Names what a check is a check of: what is loaded, asked and compared, whatever release it is in and however that is delivered.

    So a check made before publishing counts for what is published of the same files, golden inputs, limits and parameters.
    """
    fields = manifest.model_dump(
        mode="json", include={"inputs", "outputs", "golden", "limits", "parameters", "variants"}, exclude_none=True
    )
    for holder in (fields, *fields["variants"]):
        files = [*holder.get("files", ()), *([holder["golden"]["file"]] if "golden" in holder else [])]
        for file in files:
            for how in ("blocks", "index"):
                file.pop(how, None)
        for what in ("measured", "joining"):  # Found out by the publisher, and no part of what a device is asked.
            holder.pop(what, None)
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).digest()


def lacking(manifest: Manifest, checks: Mapping[str, Check], required: Sequence[str]) -> list[str]:
    """Return what speaks against a rollout, a sentence each. Where no profiles are required, those that it was checked for count."""
    found = []
    for name in required or sorted(checks):
        result = checks[name].result if name in checks else None
        if result is None:
            found.append(f"it was not checked for {name}")
        elif not result.passed:
            found.append(f"{name} refused it: {result.reason} [{result.code}]")
    if not required and not checks and any(variant.runtime != "files" for variant in manifest.variants):
        found.append("it was checked for no profile")
    return found


def unchecked(name: str, found: Sequence[str]) -> Refused:
    """Return the refusal to roll a release out."""
    return Refused(Code.RELEASE_UNCHECKED, f"{name} may not be rolled out: {'; '.join(found)}"[: 4 * TEXT_MAX])
