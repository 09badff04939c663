"""Finds the builds of a release that no device ever takes, because an earlier one suits every device that they suit."""

from collections.abc import Sequence

from schemas.manifest import Requirements, Variant


def never_chosen(variants: Sequence[Variant]) -> dict[str, str]:
    """Return the name of each such build, and of the earlier build that is taken in its place (see schemas.variant_choice.choose)."""
    found: dict[str, str] = {}
    for number, later in enumerate(variants):
        for earlier in variants[:number]:
            if earlier.runtime == later.runtime and _asks_no_more(earlier.requirements, later.requirements):
                found[later.name] = earlier.name
                break
    return found


def _asks_no_more(one: Requirements, other: Requirements) -> bool:
    return (
        (not one.arch or (bool(other.arch) and set(other.arch) <= set(one.arch)))
        and one.memory_bytes_min <= other.memory_bytes_min
        and (one.cores_min or 1) <= (other.cores_min or 1)
        and set(one.providers) <= set(other.providers)
        and (one.labels or {}).items() <= (other.labels or {}).items()
    )
