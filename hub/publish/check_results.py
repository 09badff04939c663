"""Keep the results of checks in the fleet's folder, the newest for each profile: `checks/<content>/<profile>.json`. Knows no rollout."""

import errno
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from hub.core.publish.check_rules import Check, content_of, lacking
from hub.signing.metadata_files import write
from schemas.errors import Code, Refused
from schemas.manifest import Manifest

CHECK_BYTES_MAX: Final = 64 * 1024  # Size of one file; a reason has at most 2 KB.
_NAME = re.compile(r"[A-Za-z0-9._-]{1,63}\.json")


class Checks:
    """Read and write results in one folder, which any number of processes may share; each file holds one whole check."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def keep(self, check: Check) -> None:
        """Store this as the newest check of its content for its profile; it is durable on return.

        Raises:
            Refused: the folder cannot be written.
        """
        path = self.directory / check.content.hex() / f"{check.result.profile.name}.json"
        try:
            write(path, check.model_dump_json(exclude_none=True, indent=2).encode())
        except OSError as error:
            code = Code.DISK_FULL if error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG} else Code.SETTINGS_INVALID
            raise Refused(code, f"the check cannot be kept at {path}: {error.strerror}") from error

    def of(self, content: bytes) -> dict[str, Check]:
        """Return the newest check of each profile, by profile.

        Raises:
            Refused: a file there is not a check.
        """
        folder = self.directory / content.hex()
        paths = sorted(path for path in folder.glob("*.json") if _NAME.fullmatch(path.name)) if folder.is_dir() else []
        return {check.result.profile.name: check for check in map(_read, paths)}

    def against(self, manifest: Manifest, required: Sequence[str]) -> list[str]:
        """Return the reasons not to roll a release out, one sentence each.

        Raises:
            Refused: as `of`.
        """
        return lacking(manifest, self.of(content_of(manifest)), required)


def _read(path: Path) -> Check:
    try:
        with path.open("rb") as file:
            return Check.model_validate_json(file.read(CHECK_BYTES_MAX))
    except (OSError, ValidationError):
        raise Refused(Code.SCHEMA_MALFORMED, f"{path} is not a readable check; remove it and run the check again") from None
