"""Remember metadata that was verified, so that it is parsed and its signatures are checked once.

Whether signatures are good depends on the bytes, the keys and the threshold, and on nothing else. All that python-tuf decides besides, by
versions and times, it decides each time. Of a fleet with a thousand models a node is given all roles when one of them has changed, and each
model's releases are proved by all roles above them.
"""

import contextlib
import json
from collections.abc import Callable, Iterator
from typing import Any

from tuf.api.metadata import Root, Targets
from tuf.ngclient._internal.trusted_metadata_set import TrustedMetadataSet

from schemas.names import sha256

_Loaded = tuple[Any, bytes, dict[str, Any]]
_Key = tuple[str, str, bytes, str]  # Kind and name of a role, digest of its bytes, and who signs it.
_TOP = frozenset({"root", "timestamp", "snapshot", "targets", "rollouts"})


class VerifiedMetadata:
    """Hold what the last verification of a whole set of roles has loaded. Its objects are shared: nobody changes them."""

    def __init__(self) -> None:
        self._known: dict[_Key, _Loaded] = {}
        self._used: dict[_Key, _Loaded] | None = None  # While a whole set is verified.

    def serve(self, trusted: TrustedMetadataSet) -> None:
        """Let python-tuf's set of trusted roles take what is known from here, and load the rest by itself."""
        trusted._load_data = self._loading(trusted._load_data)

    @contextlib.contextmanager
    def keeping_used(self) -> Iterator[None]:
        """Keep what is loaded in this block, if it ends well, in place of what was known before; else keep that."""
        self._used = {}
        try:
            yield
            self._known = self._used
        finally:
            self._used = None

    def _loading(self, load: Callable[..., _Loaded]) -> Callable[..., _Loaded]:
        def loaded(role: Any, data: bytes, delegator: Root | Targets | None = None, role_name: str | None = None) -> _Loaded:
            name = role_name or role.type
            if delegator is None or name not in _TOP:
                return load(role, data, delegator, role_name)
            key = (role.type, name, sha256(data), _keys_of(delegator, name))
            found = self._known.get(key) or (self._used or {}).get(key) or load(role, data, delegator, role_name)
            if self._used is not None:
                self._used[key] = found
            return found

        return loaded


def _keys_of(delegator: Root | Targets, name: str) -> str:
    """Return all that a delegator says of who signs a role; nothing where it names nobody, which python-tuf refuses."""
    try:
        role = delegator.get_delegated_role(name)
    except ValueError:
        return ""
    keys = {keyid: delegator.get_key(keyid).to_dict() for keyid in role.keyids if keyid in _listed(delegator)}
    return json.dumps([role.threshold, sorted(role.keyids), keys], sort_keys=True)


def _listed(delegator: Root | Targets) -> dict[str, Any]:
    if isinstance(delegator, Root):
        return delegator.keys
    return delegator.delegations.keys if delegator.delegations is not None else {}
