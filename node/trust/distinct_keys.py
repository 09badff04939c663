"""Refuse roles that name one key several times: python-tuf counts names, so one holder could reach a threshold alone."""

from collections.abc import Iterable, Mapping

from tuf.api.metadata import Key, Metadata, Role, Root, Targets

from schemas.errors import Code, Refused


def check_distinct_keys(roots: Iterable[bytes], targets: Targets) -> None:
    """Let verified roots, and a verified targets role, pass if each of their roles names different keys.

    Raises:
        Refused: TRUST_SIGNATURE, naming the role.
    """
    for data in roots:
        root = Metadata[Root].from_bytes(data).signed
        for name, role in root.roles.items():
            _check(f"{name} of root {root.version}", role, root.keys)
    delegations = targets.delegations
    if delegations is not None:
        for name, delegated in (delegations.roles or {}).items():
            _check(name, delegated, delegations.keys)


def _check(what: str, role: Role, keys: Mapping[str, Key]) -> None:
    if len(role.keyids) <= 1:
        return
    public = [str(keys[keyid].keyval.get("public")).strip() for keyid in role.keyids if keyid in keys]
    if len(set(public)) < len(public):
        raise Refused(Code.TRUST_SIGNATURE, f"role {what} names one key several times, which would count as several signatures")
