"""Define identifiers and digests: what is allowed in a topic level, a file name or a signature."""

import hashlib
import re
from typing import Annotated

from pydantic import Field, StringConstraints

from schemas.errors import Code, Refused
from schemas.patterns import in_words


def _near_version(text: str) -> str:
    """Return the version that a text is one part or two short of, or one `v` too long; "" where it is not near one."""
    found = re.fullmatch(r"v?([0-9]{1,9})(?:\.([0-9]{1,9}))?(?:\.([0-9]{1,9}))?", text, re.ASCII)
    return ".".join(str(int(part or 0)) for part in found.groups()) if found is not None else ""


NAME_RULE = "1 to 64 of a-z, 0-9 and '-', and neither begin nor end with '-'"
NAME_PATTERN = in_words(r"^[a-z0-9](?:[a-z0-9-]{0,62}[a-z0-9])?$", "name", NAME_RULE)
VERSION_PATTERN = in_words(
    r"^(0|[1-9]\d{0,8})\.(0|[1-9]\d{0,8})\.(0|[1-9]\d{0,8})(-[0-9a-z.-]{1,32})?$",
    "version",
    "a version such as 1.2.0 or 1.2.0-rc.1",
    _near_version,
)
FILE_PATTERN = in_words(
    r"^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}(/[A-Za-z0-9_][A-Za-z0-9._-]{0,127}){0,3}$",
    "path of a file",
    "at most 4 parts with '/' between them, each of 1 to 128 letters, digits, '.', '_' and '-', and beginning with none of '.' and '-'",
)
LABEL_PATTERN = r"[A-Za-z0-9._-]{1,63}"  # A key or a value is written so, also within a selector.
RESERVED_NODES = frozenset({"hub", "analytics", "relay"})  # User names to which the broker's access list gives other rights.

# Lower case only, so that no file system folds two of them into one. No slash, plus or hash, so that a name is one topic level.
NodeId = Annotated[str, StringConstraints(pattern=NAME_PATTERN)]
ModelName = Annotated[str, StringConstraints(pattern=NAME_PATTERN)]
FleetName = Annotated[str, StringConstraints(pattern=NAME_PATTERN)]
Cohort = Annotated[str, StringConstraints(pattern=NAME_PATTERN)]
Version = Annotated[str, StringConstraints(pattern=VERSION_PATTERN)]
FilePath = Annotated[str, StringConstraints(pattern=FILE_PATTERN)]  # Relative, without "..", hidden file, drive or NUL.
Label = Annotated[
    str,
    StringConstraints(pattern=in_words(rf"^{LABEL_PATTERN}$", "label", "1 to 63 of letters, digits, '.', '_' and '-'")),
]
HEX_32_PATTERN = in_words(r"^[0-9a-f]{32}$", "id", "32 of 0-9 and a-f")
SHA256_PATTERN = in_words(r"^[0-9a-f]{64}$", "SHA-256", "64 of 0-9 and a-f")


Digest = Annotated[bytes, Field(min_length=32, max_length=32)]  # SHA-256.
DigestPrefix = Annotated[bytes, Field(min_length=8, max_length=8)]  # The first bytes of a release digest.
Id16 = Annotated[bytes, Field(min_length=16, max_length=16)]


def sha256(data: bytes | memoryview) -> bytes:
    """Return the digest by which blocks, payloads, files and releases are named."""
    return hashlib.sha256(data).digest()


def is_name(value: str) -> bool:
    """Return whether `value` may be a level of a topic."""
    return re.fullmatch(NAME_PATTERN[1:-1], value) is not None


def check_name(kind: str, value: str) -> str:
    """Return `value` if it may stand in a topic.

    Raises:
        Refused: it may not; the sentence says what is allowed.
    """
    if not is_name(value):
        raise Refused(Code.NAME_INVALID, f"{kind} {value!r} must be {NAME_RULE}")
    return value


def check_version(value: str) -> str:
    """Return `value` if it is a version such as 1.2.0 or 1.2.0-rc.1.

    Raises:
        Refused: it is not a version.
    """
    if not re.fullmatch(VERSION_PATTERN[1:-1], value):
        raise Refused(Code.NAME_INVALID, f"version {value!r} must look like 1.2.0 or 1.2.0-rc.1")
    return value


def version_key(value: str) -> tuple[int, int, int, int, str]:
    """Return a sort key by semantic-version precedence; a pre-release comes before its release."""
    core, _, pre = value.partition("-")
    major, minor, patch = (int(part) for part in core.split("."))
    return major, minor, patch, 0 if pre else 1, pre
