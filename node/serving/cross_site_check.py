"""Refuse requests that a web page of another site could have sent through a browser on this device or its network. Knows no model.

A page may send a "simple" request anywhere, though it cannot read the answer: so a foreign `Origin` is refused, and so is a body of any
type but those that models are asked with, which forms cannot have. Where a browser says that another site asks (`Sec-Fetch-Site`), only
a link that a person follows is answered. By DNS rebinding a page can have its own name lead here, and then read answers: so `Host` is to
be a name of this device. An address is no name that anybody could rebind, and no browser reaches a Unix socket.
"""

import re
import socket
from collections.abc import Iterable
from ipaddress import ip_address
from typing import Final

from starlette.types import Scope

from schemas.errors import Code, Refused

BODY_TYPES: Final = frozenset(
    {b"application/json", b"application/octet-stream"}
)  # A page sends neither without asking first (Fetch, 2.2.2)
OTHER_SITES: Final = frozenset(
    {b"cross-site", b"same-site"}
)  # Values of Sec-Fetch-Site; another port or name of this site is another program
NAVIGATE: Final = b"navigate"  # Sec-Fetch-Mode of a link that a person follows: its page cannot read what is shown.
DOCUMENT: Final = b"document"  # Sec-Fetch-Dest of such a link; of a frame in a page it is another.
SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS"})
KNOWN_MAX: Final = 64  # values of Host that were looked at and taken
ANY: Final = "*"
SHOWN_CHARACTERS_MAX: Final = 100
HOST: Final = re.compile(rb"(?:\[(?P<address>[0-9a-z:.%]+)\]|(?P<name>[0-9a-z._-]+))(?::[0-9]*)?")


class Foreign:
    """Decide which requests one node takes. `hosts`: names besides this device's own and those of loopback; `*` takes any."""

    def __init__(self, *, host: str = "", hosts: Iterable[str] = (), origins: Iterable[str] = ()) -> None:
        name = socket.gethostname().lower()
        named = {"localhost", name, f"{name}.local", host.lower(), *(one.lower().rstrip(".") for one in hosts)}
        self._hosts = named - {""}  # A request for no host is for none of ours.
        self.origins = frozenset(one.lower() for one in origins)
        self._known: set[bytes] = set()

    def check(self, scope: Scope) -> None:
        """Let a request pass.

        Raises:
            Refused: REQUEST_FOREIGN, REQUEST_CONTENT_TYPE, or REQUEST_INVALID where it does not name its host once.
        """
        host = origin = site = mode = None
        shown_in = DOCUMENT
        contents = []
        for name, value in scope["headers"]:
            if name == b"host":
                if host is not None:
                    raise Refused(Code.REQUEST_INVALID, "the request has two Host fields: it names its host once")
                host = value
            elif name == b"origin":
                if origin is not None:
                    raise Refused(Code.REQUEST_FOREIGN, "the request has two Origin fields, which no web page sends")
                origin = value
            elif name == b"content-type":
                contents.append(value)
            elif name == b"sec-fetch-site":
                site = value
            elif name == b"sec-fetch-mode":
                mode = value
            elif name == b"sec-fetch-dest":
                shown_in = value
        if host not in self._known:
            self._check_host(host, scope)
        if origin is not None:
            self._check_origin(origin, host)
        elif site in OTHER_SITES and (scope["method"] not in SAFE or (mode, shown_in) != (NAVIGATE, DOCUMENT)):
            raise Refused(Code.REQUEST_FOREIGN, "the request comes from a web page of another site (Sec-Fetch-Site)")
        if contents and scope["method"] not in SAFE:
            _check_types(contents)

    def _check_host(self, host: bytes | None, scope: Scope) -> None:
        if scope.get("server") is None or scope["server"][1] is None:
            return  # a Unix socket
        if host is None:
            if scope.get("http_version") == "1.0":
                return
            raise Refused(Code.REQUEST_INVALID, "the request has no Host field: it names its host once")
        name = _name(host)
        if ANY not in self._hosts and name not in self._hosts and not name.endswith(".localhost") and not _is_address(name):
            raise Refused(
                Code.REQUEST_FOREIGN,
                f"the request is for host {_shown(host)}, which is no name of this device: ask for localhost or an address, "
                "or list the name in `allowed_hosts`",
            )
        if len(self._known) < KNOWN_MAX:
            self._known.add(host)

    def _check_origin(self, origin: bytes, host: bytes | None) -> None:
        given = origin.decode("latin-1").lower()
        if given in self.origins or (host is not None and given.partition("://")[2] == host.decode("latin-1").lower()):
            return
        raise Refused(
            Code.REQUEST_FOREIGN,
            f"the request comes from a web page of {_shown(origin)}: list it in `allowed_origins`, if it is to ask",
        )


def _check_types(contents: list[bytes]) -> None:
    """Let the type of a body pass.

    Raises:
        Refused: REQUEST_CONTENT_TYPE.
    """
    for content in contents:
        kind = content.partition(b";")[0].strip().lower()
        if kind in BODY_TYPES or (kind.startswith(b"application/") and kind.endswith(b"+json")):
            continue
        raise Refused(
            Code.REQUEST_CONTENT_TYPE,
            f"Content-Type is {_shown(content)}: say application/json, or application/octet-stream for binary tensors "
            "(curl -H 'content-type: application/json')",
        )


def _name(host: bytes) -> str:
    """Return a Host field without its port; nothing where it is not spelled as one (RFC 9110, 7.2)."""
    spelled = HOST.fullmatch(host.strip().lower())
    return (spelled["address"] or spelled["name"]).decode("ascii").rstrip(".") if spelled else ""


def _is_address(name: str) -> bool:
    try:
        ip_address(name.partition("%")[0])
    except ValueError:
        return False
    return True


def _shown(value: bytes) -> str:
    return ascii(value[:SHOWN_CHARACTERS_MAX].decode("latin-1"))
