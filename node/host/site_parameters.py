"""Read what a site sets about its models, from a file of its own: read again when it changes. Knows no release and no bound.

    [delay]                      # a model
    threshold = 0.7              # a parameter of its releases
    labels = { cat = "Katze" }   # a map

What a release does not allow is passed over where it is applied, and reported there.
"""

from pathlib import Path
from typing import Final

from pydantic import TypeAdapter, ValidationError

from fleetcast.toml_text import parse_toml
from node.core.trust.clock import NEVER, MonotonicSeconds
from schemas.errors import Code, Refused, mismatch
from schemas.limits import KIB, SLOTS_MAX
from schemas.names import Label, ModelName
from schemas.parameters import Value
from schemas.patterns import reason_of

FILE_BYTES_MAX: Final = 256 * KIB  # every parameter of every slot at its longest, with room
LOOK_SECONDS: Final = 2.0
_SHAPE: Final = TypeAdapter(dict[ModelName, dict[Label, Value]])


class Overrides:
    """Read one file; absent, it sets nothing. A file that is wrong changes nothing: what it set before holds."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._values: dict[str, dict[str, Value]] = {}
        self._stamp: tuple[int, int] | None = None
        self.error: Refused | None = None  # What is wrong with the file as it is now.
        self._looked_at = NEVER

    def of(self, model: str) -> dict[str, Value]:
        """Return what the site sets about a model."""
        return self._values.get(model, {})

    @property
    def models(self) -> frozenset[str]:
        """Return the models that the site sets something about."""
        return frozenset(self._values)

    @property
    def path(self) -> Path:
        """Return the file."""
        return self._path

    def look(self, now: MonotonicSeconds) -> bool:
        """Read the file when it has changed, at most every few seconds; True when it says something else than before.

        Raises:
            Refused: SETTINGS_INVALID, once a change of the file.
        """
        if now - self._looked_at < LOOK_SECONDS:
            return False
        self._looked_at = now
        try:
            status = self._path.stat()
        except OSError:
            stamp = None
        else:
            stamp = (status.st_mtime_ns, status.st_size)
        if stamp == self._stamp:
            return False
        self._stamp, self.error = stamp, None
        try:
            found = self._read() if stamp is not None else {}
        except Refused as refusal:
            self.error = refusal
            raise
        changed, self._values = found != self._values, found
        return changed

    def _read(self) -> dict[str, dict[str, Value]]:
        try:
            with self._path.open("rb") as file:
                data = file.read(FILE_BYTES_MAX + 1)
        except OSError as error:
            raise Refused(Code.SETTINGS_INVALID, f"{self._path}: {error.strerror}") from None
        if len(data) > FILE_BYTES_MAX:
            raise mismatch(Code.SETTINGS_INVALID, f"{self._path}: size", expected=f"at most {FILE_BYTES_MAX} bytes", actual="more")
        try:
            found = _SHAPE.validate_python(parse_toml(data))
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            raise Refused(Code.SETTINGS_INVALID, f"{self._path}: {'.'.join(map(str, first['loc']))}: {reason_of(first)}") from None
        except ValueError as error:  # not UTF-8, not TOML
            raise Refused(Code.SETTINGS_INVALID, f"{self._path}: {error}") from None
        if len(found) > SLOTS_MAX:
            raise mismatch(Code.SETTINGS_INVALID, f"{self._path}: models", expected=f"at most {SLOTS_MAX}", actual=len(found))
        return found
