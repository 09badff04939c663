"""Have a release that lies in a folder prove itself here, as the node would before it serves it. Knows no hub, fleet, slot or signature.

Digests say that the files are those of the manifest, and nothing says who made that: what passes here is not trusted, only tried.
"""

import asyncio
import hashlib
import os
import platform
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from fleetcast import disk_room, durable
from fleetcast.golden_file import pack_golden
from fleetcast.toml_text import parse_toml
from node.core.activation import golden
from node.core.activation.effective_parameters import effective_parameters
from node.runtimes import available
from node.serving.activation import Activated, Staged, activate, answers_of, specs_of, start
from schemas import codec
from schemas.errors import Code, Refused, mismatch
from schemas.limits import MANIFEST_BYTES_MAX, MIB, TEXT_MAX
from schemas.manifest import File, Manifest, Variant
from schemas.names import sha256
from schemas.parameters import check_value, settings, unknown
from schemas.proof import Proof
from schemas.receipt import Evidence
from schemas.state import Profile
from schemas.variant_choice import choose

READ_BYTES: Final = MIB
REASON_CHARACTERS_MAX: Final = 4 * TEXT_MAX  # A proof's reason.
PARAMETERS_BYTES_MAX: Final = MIB  # 16 maps of 64 entries of 128 characters are a seventh of this


@dataclass(frozen=True, slots=True)
class Terms:
    """Describe how a release is tried: with a number of this machine's cores, and a worker with a bound on its memory."""

    manifest: Path
    files: Path
    variant: str | None = None
    threads: int = 1
    cores: int | None = None
    memory_bytes: int | None = None
    parameters: Path | None = None
    answers: Path | None = None


def prove(terms: Terms) -> Proof:
    """Activate the release, and say how that ended; a refusal is an answer as well."""
    known: dict[str, Any] = {}
    try:
        known["cores"] = cores = _confine(terms.cores)
        manifest, known["release"] = read_manifest(terms.manifest)
        known |= {"model": manifest.model, "version": manifest.version}
        variant = _variant(manifest, terms, cores)
        known["variant"] = variant.name
        verify(manifest, variant, terms.files)
        evidence = asyncio.run(_proven(_staged(manifest, known["release"], variant, terms), terms.answers))
    except Refused as refusal:
        return Proof(passed=False, code=str(refusal.code), reason=refusal.reason[:REASON_CHARACTERS_MAX], **known)
    return Proof(passed=True, evidence=evidence, **known)


def read_manifest(path: Path) -> tuple[Manifest, bytes]:
    """Return a manifest and its digest, which is the release's.

    Raises:
        Refused: it cannot be read, is too large, or is no manifest.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MANIFEST_BYTES_MAX + 1)
    except OSError as error:
        raise Refused(Code.SETTINGS_INVALID, f"{path} cannot be read: {error.strerror}") from None
    return codec.decode(Manifest, data), sha256(data)


def verify(manifest: Manifest, variant: Variant, folder: Path) -> None:
    """Check whether every file of a variant lies in the folder as the manifest says, before anything is loaded.

    Raises:
        Refused: ARTIFACT_DIGEST or ARTIFACT_PATH, naming the first file that is not.
    """
    for file in manifest.files_of(variant.name):
        path = folder / file.path
        if not path.resolve().is_relative_to(folder.resolve()):
            raise Refused(Code.ARTIFACT_PATH, f"{file.path} leads outside {folder}")
        found = _digest(path, file)
        if found != file.digest:
            raise mismatch(Code.ARTIFACT_DIGEST, f"file {file.path}", expected=file.digest.hex(), actual=found.hex())


def _digest(path: Path, file: File) -> bytes:
    hasher = hashlib.sha256()
    try:
        with path.open("rb") as source:
            size = os.fstat(source.fileno()).st_size
            if size != file.bytes:
                raise mismatch(Code.ARTIFACT_DIGEST, f"file {file.path}", expected=f"{file.bytes} bytes", actual=f"{size} bytes")
            while chunk := source.read(READ_BYTES):
                hasher.update(chunk)
    except OSError as error:
        raise Refused(Code.ARTIFACT_DIGEST, f"file {file.path} cannot be read in {path.parent}: {error.strerror}") from None
    return hasher.digest()


def _confine(cores: int | None) -> int:
    """Give up all cores but a number; there is no way back, and a worker inherits it. Returns how many are left."""
    here = sorted(os.sched_getaffinity(0))
    if cores is not None and cores < len(here):
        os.sched_setaffinity(0, here[:cores])
    return min(cores or len(here), len(here))


def _variant(manifest: Manifest, terms: Terms, cores: int) -> Variant:
    """Return the one that is named, else the one that suits this device.

    Raises:
        Refused: RELEASE_NO_VARIANT.
    """
    if terms.variant is None:
        memory_bytes = terms.memory_bytes or os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        arch, runtimes = platform.machine() or "unknown", tuple(available())
        return choose(manifest, Profile(arch=arch, cores=cores, memory_bytes=memory_bytes, runtimes=runtimes, labels={}))
    found = next((one for one in manifest.variants if one.name == terms.variant), None)
    if found is None:
        names = ", ".join(one.name for one in manifest.variants)
        raise mismatch(Code.RELEASE_NO_VARIANT, f"variants of {manifest.model} {manifest.version}", expected=terms.variant, actual=names)
    return found


def _staged(manifest: Manifest, release: bytes, variant: Variant, terms: Terms) -> Staged:
    parameters = manifest.parameters or ()
    given = _rollout_values(manifest, terms.parameters) if terms.parameters is not None else {}
    known = manifest.golden_of(variant)
    if terms.memory_bytes is not None and terms.memory_bytes < manifest.limits.memory_bytes_max:
        # What the device has bounds the worker as the release's own limit does. Not this process: it has to live to tell.
        manifest = manifest.model_copy(update={"limits": manifest.limits.model_copy(update={"memory_bytes_max": terms.memory_bytes})})
    return Staged(
        model=manifest.model,
        version=manifest.version,
        digest=release,
        manifest=manifest,
        model_path=terms.files / variant.files[0].path,
        golden_path=terms.files / known.file.path if known is not None else None,
        threads=terms.threads,
        runtime=variant.runtime,
        variant=variant.name,
        providers=variant.requirements.providers,
        parameters=effective_parameters(parameters, settings(parameters, rollout=given, site={}), specs_of(manifest.inputs)),
    )


def _rollout_values(manifest: Manifest, path: Path) -> Mapping[str, object]:
    """Return values of parameters, a name a line in TOML; a map is a table.

    Raises:
        Refused: unreadable, no TOML, PARAMETER_UNKNOWN or PARAMETER_BOUNDS.
    """
    try:
        with path.open("rb") as file:
            data = file.read(PARAMETERS_BYTES_MAX + 1)
        if len(data) > PARAMETERS_BYTES_MAX:
            raise mismatch(Code.SETTINGS_INVALID, f"{path}: size", expected=f"at most {PARAMETERS_BYTES_MAX} bytes", actual="more")
        given: dict[str, object] = parse_toml(data)
    except OSError as error:
        raise Refused(Code.SETTINGS_INVALID, f"{path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise Refused(Code.SETTINGS_INVALID, f"{path}: {error}") from None
    parameters = manifest.parameters or ()
    if strange := unknown(parameters, given):
        names = ", ".join(one.name for one in parameters) or "none"
        raise mismatch(Code.PARAMETER_UNKNOWN, f"{path}: parameters", expected=names, actual=", ".join(strange)[:128])
    return {one.name: check_value(one, given[one.name]) for one in parameters if one.name in given}


async def _proven(staged: Staged, answers: Path | None) -> Evidence:
    with ExitStack() as stack:
        if answers is not None:
            staged = await _answered(staged, answers, stack)
        activated: Activated = await activate(staged)
        await activated.worker.close()
    return activated.evidence


async def _answered(staged: Staged, target: Path, stack: ExitStack) -> Staged:
    """Write down what the model answers to its golden inputs. Where none were known, it has to give them again in the proof.

    Raises:
        Refused: GOLDEN_INVALID, where there are no golden inputs; or the model fails.
    """
    if staged.golden_path is None:
        raise Refused(Code.GOLDEN_INVALID, f"the manifest of {staged.model} {staged.version} names no golden inputs to answer")
    case = await asyncio.to_thread(_read_golden, staged.golden_path)
    asked = golden.questions(case, specs_of(staged.manifest.inputs))
    worker = await start(staged)
    try:
        outputs = await answers_of(worker, staged, asked)
    finally:
        await worker.close()
    packed = pack_golden(case.inputs, outputs)
    _write(target, packed)
    if case.outputs:
        return staged
    scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fleetcast-prove-"))) / "golden.npz"
    scratch.write_bytes(packed)
    return replace(staged, golden_path=scratch)


def _read_golden(path: Path) -> golden.GoldenCase:
    return golden.parse(path.read_bytes(), known=False)  # its size and digest were those of the manifest a moment ago


def _write(target: Path, data: bytes) -> None:
    """Write under another name until all of it is on the disk."""
    try:
        durable.write(target, data)
    except OSError as error:
        code = Code.DISK_FULL if error.errno in disk_room.FULL else Code.SETTINGS_INVALID
        raise Refused(code, f"{target} cannot be written: {error.strerror}") from None
