"""Say where a hub is, and what lets a client in: an address, a token, and whose certificate is believed."""

import ipaddress
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from schemas.errors import Code, Refused

HUB_VARIABLE: Final = "FLEETCAST_HUB"
TOKEN_VARIABLE: Final = "FLEETCAST_TOKEN"  # noqa: S105  # a name, not a secret
TOKEN_FILE_VARIABLE: Final = "FLEETCAST_TOKEN_FILE"  # noqa: S105
CA_VARIABLE: Final = "FLEETCAST_CA_FILE"
TOKEN_CHARACTERS_MAX: Final = 128
TOKEN_FILE_BYTES_MAX: Final = 4096
URL_CHARACTERS_MAX: Final = 2048


@dataclass(frozen=True, slots=True)
class HubPlace:
    """Hold where a hub is. Its token appears in no text of it."""

    url: str  # Scheme, host and port, without a path.
    token: str = field(repr=False)
    ca_file: Path | None = None  # Certificates of authorities to believe in place of the system's.


def place_of(
    url: str,
    *,
    token: str | None = None,
    token_file: Path | str | None = None,
    ca_file: Path | str | None = None,
    environment: Mapping[str, str] = os.environ,
) -> HubPlace:
    """Return where a hub is: what is given, or else what the environment has.

    Raises:
        Refused: SETTINGS_INVALID or REQUEST_TOKEN: the address or the token cannot be used.
    """
    checked = _checked(url)
    if token is None and token_file is None:
        token, token_file = environment.get(TOKEN_VARIABLE), environment.get(TOKEN_FILE_VARIABLE)
    if token is None:
        if not token_file:
            mend = f"put it into a file that {TOKEN_FILE_VARIABLE} names, or into {TOKEN_VARIABLE}; `fleetcast tokens make` makes one"
            raise Refused(Code.REQUEST_TOKEN, f"no token is given for the hub at {checked}: {mend}")
        token = _first_line(Path(token_file))
    token = token.strip()
    if not (0 < len(token) <= TOKEN_CHARACTERS_MAX and token.isascii() and token.isprintable() and " " not in token):
        reason = f"the token must be 1 to {TOKEN_CHARACTERS_MAX} printable ASCII characters, as `fleetcast tokens make` has shown it"
        raise Refused(Code.REQUEST_TOKEN, reason)
    authorities = ca_file if ca_file is not None else environment.get(CA_VARIABLE) or None
    return HubPlace(checked, token, Path(authorities) if authorities is not None else None)


def _checked(url: str) -> str:
    """Return an address without what does not belong to it.

    Raises:
        Refused: it is no address of a hub, or tokens would be readable on the way.
    """
    text = url.strip()
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port, parts = None, None, urlsplit("")
    if len(text) > URL_CHARACTERS_MAX or parts.scheme not in {"http", "https"} or not host or not text.isprintable() or " " in text:
        raise Refused(Code.SETTINGS_INVALID, f"{text[:200]!r} is no address of a hub: expected one such as https://hub.example:8443")
    if parts.username is not None or parts.query or parts.fragment or parts.path.rstrip("/") not in {"", "/api/v1"}:
        reason = "an address of a hub has a scheme, a host and a port only, such as https://hub.example:8443"
        raise Refused(Code.SETTINGS_INVALID, f"{parts.scheme}://{host}: {reason}; a token goes into {TOKEN_FILE_VARIABLE}")
    if parts.scheme == "http" and not _is_loopback(host):
        raise Refused(Code.SETTINGS_INVALID, f"http://{host}: a token would be readable on the way; use https, or a tunnel to loopback")
    name = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{name}" + (f":{port}" if port is not None else "")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _first_line(path: Path) -> str:
    try:
        with path.open("rb") as file:
            lines = file.read(TOKEN_FILE_BYTES_MAX).splitlines()
        return lines[0].decode("ascii") if lines else ""
    except OSError as error:
        raise Refused(Code.REQUEST_TOKEN, f"token file {path}: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise Refused(Code.REQUEST_TOKEN, f"token file {path}: its first line is no token") from None
