"""Check trust documents as far as it goes without verifying a signature: claims to be checked, repetitions, serials that fall. Knows no
TUF.
"""

import json
from collections.abc import Mapping
from typing import Any

from schemas.bundle import TrustBundle, TrustRoles
from schemas.decoding_cost import json_tokens
from schemas.errors import Code, Refused, mismatch
from schemas.limits import TRUST_ROLE_TOKENS_MAX, TRUST_TOKENS_MAX
from schemas.rollout import Rollout


def claimed_version(data: bytes, kind: str) -> int:
    """Return what version a role says to be; not verified, and good only to tell by which name TUF will ask for it.

    Raises:
        Refused: not JSON, a key twice, too deep, too many values, or the metadata of another kind of role.
    """
    if (found := json_tokens(data)) > TRUST_ROLE_TOKENS_MAX:
        raise mismatch(Code.SCHEMA_TOO_LARGE, f"values of a {kind} role", expected=f"at most {TRUST_ROLE_TOKENS_MAX}", actual=found)
    try:
        signed = json.loads(data, object_pairs_hook=_without_duplicates)["signed"]
        version, found = signed["version"], signed["_type"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise Refused(Code.SCHEMA_MALFORMED, f"{kind}: not TUF metadata") from None
    if found != kind:
        raise mismatch(Code.TRUST_MISMATCH, "kind of a role", expected=kind, actual=str(found)[:32])
    if type(version) is not int or not 0 < version < 2**53:
        raise Refused(Code.SCHEMA_MALFORMED, f"{kind}: TUF metadata without a version")
    return version


def check_cost(bundle: TrustBundle | TrustRoles) -> None:
    """Refuse metadata that would take long to parse, by looking at its bytes: all of it is parsed before its first signature is checked.

    Raises:
        Refused: SCHEMA_TOO_LARGE.
    """
    roles = [*bundle.roots, bundle.timestamp, bundle.snapshot, bundle.targets]
    found = sum(map(json_tokens, [*roles, bundle.rollouts] if isinstance(bundle, TrustBundle) else roles))
    if found > TRUST_TOKENS_MAX:
        raise mismatch(Code.SCHEMA_TOO_LARGE, "values in the trust bundle", expected=f"at most {TRUST_TOKENS_MAX}", actual=found)


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice")  # two readers could take different ones for true
    return found


def check_serials(rollouts: Mapping[str, Rollout], earlier: Mapping[str, Rollout]) -> None:
    """Refuse a serial that falls: a hub that came back from the past signs with the right key, and its older serial gives it away.

    Raises:
        Refused: a model's serial is lower than it was.
    """
    for model, rollout in rollouts.items():
        if model in earlier and rollout.serial < earlier[model].serial:
            raise mismatch(
                Code.TRUST_ROLLBACK, f"serial of {model}'s rollout", expected=f"{earlier[model].serial} or more", actual=rollout.serial
            )


def is_again(bundle: TrustBundle | TrustRoles, trusted: TrustBundle | TrustRoles) -> bool:
    """Return whether a bundle says nothing new: QoS 1 delivers twice, and a retained message comes with every connection."""
    return set(bundle.roots) <= set(trusted.roots) and bundle.model_copy(update={"roots": trusted.roots}) == trusted
