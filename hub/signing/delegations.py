"""Change which key the targets role lets sign what."""

from collections.abc import Mapping

from securesystemslib.signer import Key
from tuf.api.metadata import DelegatedRole, Delegations, Targets


def delegate(targets: Targets, role: str, key: Key, pattern: str) -> None:
    """Let one key sign a role, for these paths."""
    delegations = targets.delegations
    if delegations is None or delegations.roles is None:
        raise ValueError("the targets role has lost its delegations")
    delegations.roles[role] = DelegatedRole(role, [key.keyid], 1, terminating=True, paths=[pattern])
    delegations.keys[key.keyid] = key
    _drop_unused_keys(delegations, delegations.roles)


def undelegate(targets: Targets, role: str) -> None:
    """Take a role out of the targets role, with its key if no other role has it."""
    delegations = targets.delegations
    if delegations is None or delegations.roles is None:
        raise ValueError("the targets role has lost its delegations")
    del delegations.roles[role]
    _drop_unused_keys(delegations, delegations.roles)


def _drop_unused_keys(delegations: Delegations, roles: Mapping[str, DelegatedRole]) -> None:
    used = {keyid for one in roles.values() for keyid in one.keyids}
    delegations.keys = {keyid: known for keyid, known in delegations.keys.items() if keyid in used}
