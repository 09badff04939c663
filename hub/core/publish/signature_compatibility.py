"""Decide whether programs that ask one release can ask another: by what both take and give, and sees no request.

Compatible are: a free axis (-1) in place of a fixed one, outputs after those that there were, and a new input that has a parameter for
those who leave it out. Whatever else differs breaks some program that works now.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from schemas.errors import Code, Refused
from schemas.limits import TEXT_MAX
from schemas.manifest import Manifest, Tensor
from schemas.names import version_key
from schemas.parameters import Parameter

FILES = "files"  # The runtime that answers nobody.
DIFFERENCES_SHOWN = 6  # A model of a hundred inputs that were all renamed is one mistake.


@dataclass(frozen=True, slots=True)
class Signature:
    """Hold what programs meet of a release: its tensors, the inputs that they may leave out, and the runtimes of its variants."""

    model: str
    version: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    optional: frozenset[str]
    runtimes: tuple[str, ...]

    @classmethod
    def of(cls, manifest: Manifest) -> "Signature":
        """Return that of a published release."""
        runtimes = tuple(dict.fromkeys(variant.runtime for variant in manifest.variants))
        return cls(manifest.model, manifest.version, manifest.inputs, manifest.outputs, optional_inputs(manifest.parameters), runtimes)

    @property
    def name(self) -> str:
        """Return the release's name."""
        return f"{self.model}@{self.version}"

    @property
    def kinds(self) -> frozenset[str]:
        """Return whether it answers requests, is files, or is the one on some devices and the other on others."""
        return frozenset(FILES if runtime == FILES else "model" for runtime in self.runtimes)


def optional_inputs(parameters: Sequence[Parameter] | None) -> frozenset[str]:
    """Return the inputs that a request may leave out, because a parameter has their value."""
    return frozenset(parameter.name for parameter in parameters or () if parameter.goes_to == "input")


def differences(release: Signature, before: Signature) -> tuple[str, ...]:
    """Return how `release` breaks programs that work with `before`, a sentence each that names both sides; empty if it does not."""
    if release.kinds != before.kinds:
        return (f"{_is(before)}, and {_is(release)}",)
    found = [*_of_inputs(release, before), *_of_outputs(release, before)]
    more = len(found) - DIFFERENCES_SHOWN
    return (*found[:DIFFERENCES_SHOWN], f"{more} more inputs and outputs differ") if more > 0 else tuple(found)


def predecessor(version: str, known: Iterable[str]) -> str | None:
    """Return the release that a new version is compared with when it is published: the newest below it, None where none is."""
    return max((one for one in known if version_key(one) < version_key(version)), key=version_key, default=None)


def check_published(release: Signature, before: Signature) -> None:
    """Check a release against its predecessor before it is published.

    Raises:
        Refused: RELEASE_BREAKING: programs that work now would not work with it.
    """
    if found := differences(release, before):
        is_files = release.kinds == {FILES}
        mend = (
            "publish the model's own file, and give data with --reference" if is_files else "publish a model that takes and gives the same"
        )
        raise _breaking(f"{release.name} breaks programs that use {before.name}", found, f"{mend}, or add --breaking if this is intended")


def check_started(release: Signature, predecessors: Iterable[Signature]) -> None:
    """Check a release against those that a rollout would replace.

    Raises:
        Refused: RELEASE_BREAKING: programs at some nodes would not work with it.
    """
    for before in predecessors:
        if found := differences(release, before):
            what = f"{release.name} breaks programs that use {before.name}, which it replaces"
            raise _breaking(what, found, "add --breaking once these programs are ready for it")


def check_moved(moved: Iterable[tuple[Signature, Signature, int]]) -> None:
    """Check what nodes would go to against what they have: (release, the one before, how many nodes).

    Raises:
        Refused: RELEASE_BREAKING: programs at some nodes would not work with the release that they would get.
    """
    for release, before, nodes in moved:
        if found := differences(release, before):
            whom = "1 node has" if nodes == 1 else f"{nodes} nodes have"
            what = f"{release.name} breaks programs that use {before.name}, which {whom} and would leave for it"
            raise _breaking(what, found, "add --breaking once these programs are ready for it")


def _breaking(what: str, found: Sequence[str], mend: str) -> Refused:
    said = f"{what}: {'; '.join(found)}"
    room = 4 * TEXT_MAX - len(mend) - 8
    return Refused(Code.RELEASE_BREAKING, f"{said if len(said) <= room else said[:room] + ' ...'}: {mend}")


def _of_inputs(release: Signature, before: Signature) -> Iterator[str]:
    now, then = ({tensor.name: tensor for tensor in one.inputs} for one in (release, before))
    for tensor in before.inputs:
        if tensor.name not in now:
            yield f"input {_told(tensor)} of {before.version} is not in {release.version}, which takes {_all(release.inputs)}"
            continue
        yield from _of_tensor("input", now[tensor.name], tensor, release, before)
        if tensor.name in before.optional - release.optional:
            yield f"input {tensor.name!r} may be left out in {before.version}, and must be given in {release.version}"
    for tensor in release.inputs:
        if tensor.name not in then and tensor.name not in release.optional:
            yield f"{release.version} needs input {_told(tensor)}, which {before.version} does not have; that takes {_all(before.inputs)}"


def _of_outputs(release: Signature, before: Signature) -> Iterator[str]:
    now = {tensor.name: tensor for tensor in release.outputs}
    for tensor in before.outputs:
        if tensor.name not in now:
            yield f"output {_told(tensor)} of {before.version} is not in {release.version}, which gives {_all(release.outputs)}"
        else:
            yield from _of_tensor("output", now[tensor.name], tensor, release, before)
    names, names_before = ([tensor.name for tensor in one.outputs] for one in (release, before))
    if set(names_before) <= set(names) and names[: len(names_before)] != names_before:
        yield f"outputs of {before.version} are in the order {', '.join(names_before)}, and of {release.version} {', '.join(names)}"


def _of_tensor(what: str, tensor: Tensor, then: Tensor, release: Signature, before: Signature) -> Iterator[str]:
    if tensor.datatype != then.datatype or not _covers(tensor.shape, then.shape):
        both = f"{then.datatype}{list(then.shape)} in {before.version}, and {tensor.datatype}{list(tensor.shape)} in {release.version}"
        yield f"{what} {tensor.name!r} is {both}"


def _covers(shape: Sequence[int], before: Sequence[int]) -> bool:
    return len(shape) == len(before) and all(axis in (-1, then) for axis, then in zip(shape, before, strict=True))


def _is(one: Signature) -> str:
    what = "a model on some devices and files on others"
    if len(one.kinds) == 1:
        what = "files, which answer no request" if FILES in one.kinds else "a model that answers requests"
    return f"{one.name} (runtime {', '.join(one.runtimes)}) is {what}"


def _told(tensor: Tensor) -> str:
    return f"{tensor.name!r} {tensor.datatype}{list(tensor.shape)}"


def _all(tensors: Sequence[Tensor]) -> str:
    names = [_told(tensor) for tensor in tensors[:DIFFERENCES_SHOWN]]
    more = f" and {len(tensors) - len(names)} more" if len(tensors) > len(names) else ""
    return f"{', '.join(names)}{more}" if names else "none"
