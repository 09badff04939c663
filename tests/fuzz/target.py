"""What is fuzzed: a decoder, the inputs that it begins with, and what it may end with."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from schemas.errors import Refused
from tests.fuzz.mutations import Form, Raw

CORPUS = Path(__file__).parent / "corpus"
VECTORS = Path(__file__).parents[1] / "vectors"
SECONDS_MAX = 2.0  # CPU time of one input.
RSS_MIB_MAX = 2048  # Of the whole process, coverage and libraries included.
OURS = ("schemas", "fleetcast", "hub", "node", "tuf")
BYTES_MAX = 256 * 1024  # Of an input: larger ones are refused by their length, which tests elsewhere show.


def _nothing() -> None:
    pass


@dataclass(frozen=True, slots=True)
class Target:
    """One decoder. `run` returns, or raises one of `refusals`; anything else that it raises is a fault."""

    name: str
    run: Callable[[bytes], object]
    seeds: Callable[[], Sequence[bytes]]
    form: Form = Raw()  # noqa: RUF009  # it has no state
    refusals: tuple[type[Exception], ...] = (Refused,)
    bytes_max: int = BYTES_MAX
    prepare: Callable[[], object] = _nothing  # What `run` needs and no input is charged for, made before the first one.
    guides: tuple[str, ...] = OURS  # Packages whose lines guide the changes.

    @property
    def is_prepared(self) -> bool:
        """Return whether it needs more than its code."""
        return self.prepare is not _nothing

    def __call__(self, data: bytes) -> None:
        """Decode one input as the product does."""
        try:
            self.run(data)
        except self.refusals:
            return

    def kept(self) -> Iterator[Path]:
        """Return the files of the corpus: what fuzzing has found, faults among it."""
        yield from sorted(path for path in (CORPUS / self.name).glob("*") if path.is_file())

    def inputs(self) -> tuple[bytes, ...]:
        """Return the seeds and the kept corpus."""
        return _inputs(self)


@cache
def _inputs(target: Target) -> tuple[bytes, ...]:
    return (*target.seeds(), *(path.read_bytes() for path in target.kept()))


def name_of(data: bytes) -> str:
    """Return the file name of an input."""
    return hashlib.sha256(data).hexdigest()[:16]
