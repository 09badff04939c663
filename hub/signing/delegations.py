"""Change which keys a root or a targets role names. Only the parts that are in memory change; nothing is signed or written."""

from collections.abc import Mapping, Sequence

from securesystemslib.signer import Key
from tuf.api.metadata import DelegatedRole, Delegations, Root, Targets


def delegate_to(targets: Targets, role: str, keys: Sequence[Key], pattern: str) -> None:
    """Let one of these keys, and no other key, sign a delegated role. Without a key nobody can."""
    delegations, roles = _delegations(targets)
    roles[role] = DelegatedRole(role, [key.keyid for key in keys], 1, terminating=True, paths=[pattern])
    delegations.keys.update({key.keyid: key for key in keys})
    _drop_unused_keys(delegations, roles)


def undelegate(targets: Targets, role: str) -> None:
    """Take a delegated role away."""
    delegations, roles = _delegations(targets)
    del roles[role]
    _drop_unused_keys(delegations, roles)


def set_keys(root: Root, role: str, keys: Sequence[Key], *, threshold: int | None = None) -> None:
    """Let these keys, and no others, sign a top-level role."""
    for keyid in list(root.roles[role].keyids):
        root.revoke_key(keyid, role)
    for key in keys:
        root.add_key(key, role)
    if threshold is not None:
        root.roles[role].threshold = threshold


def _delegations(targets: Targets) -> tuple[Delegations, dict[str, DelegatedRole]]:
    delegations = targets.delegations
    if delegations is None or delegations.roles is None:
        raise ValueError("the targets role has lost its delegations")
    return delegations, delegations.roles


def _drop_unused_keys(delegations: Delegations, roles: Mapping[str, DelegatedRole]) -> None:
    used = {keyid for one in roles.values() for keyid in one.keyids}
    delegations.keys = {keyid: known for keyid, known in delegations.keys.items() if keyid in used}
