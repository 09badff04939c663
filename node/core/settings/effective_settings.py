"""Decide what is in force of what the site's own file and the hub set: the hub may restrict, and the site says what it accepts.

Labels and cohort are the hub's where it sets them, for an operator has to be able to move a device. Telemetry can only be turned off, and a
budget only lowered: what the site forbids, no hub allows.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from node.core.delivery.byte_quota import Policy
from schemas.device_settings import DeviceSettings, LinkBudget
from schemas.errors import Code, Refused
from schemas.state import LinkClass

Settable = Literal["labels", "cohort", "budgets", "telemetry"]
SETTABLE: Final[tuple[Settable, ...]] = ("labels", "cohort", "budgets", "telemetry")
LINKS: Final[tuple[LinkClass, ...]] = ("free", "metered", "roaming")


@dataclass(frozen=True, slots=True)
class SiteTerms:
    """Hold what the site's file says, and what it lets the hub set."""

    labels: Mapping[str, str]
    cohort: str
    telemetry: bool
    budgets: Mapping[LinkClass, Policy]
    accepts: frozenset[Settable] = frozenset(SETTABLE)


@dataclass(frozen=True, slots=True)
class EffectiveSettings:
    """Hold what is in force. `ignored` names what the hub sets and the site does not accept; `serial` is 0 where the hub sets nothing."""

    labels: Mapping[str, str]
    cohort: str
    telemetry: bool
    budgets: Mapping[LinkClass, Policy]
    display_name: str = ""
    serial: int = 0
    ignored: tuple[Settable, ...] = ()


def effective_settings(site: SiteTerms, hub: DeviceSettings | None) -> EffectiveSettings:
    """Return what is in force on a node."""
    if hub is None:
        return EffectiveSettings(site.labels, site.cohort, site.telemetry, site.budgets)
    given: dict[Settable, object] = {
        "labels": hub.labels,
        "cohort": hub.cohort,
        "budgets": hub.budgets,
        "telemetry": hub.telemetry,
    }
    ignored = tuple(name for name, value in given.items() if value is not None and name not in site.accepts)
    labels = {**site.labels, **(hub.labels or {})} if "labels" not in ignored else site.labels
    cohort = hub.cohort if hub.cohort is not None and "cohort" not in ignored else site.cohort
    budgets = _lowered(site.budgets, hub.budgets or {}) if "budgets" not in ignored else site.budgets
    telemetry = site.telemetry and (hub.telemetry is not False or "telemetry" in ignored)
    return EffectiveSettings(labels, cohort, telemetry, budgets, hub.display_name or "", hub.serial, ignored)


def _lowered(site: Mapping[LinkClass, Policy], hub: Mapping[str, LinkBudget]) -> dict[LinkClass, Policy]:
    found = dict(site)
    for link in LINKS:
        if link in hub:
            found[link] = _lower(site.get(link) or Policy.default(link), hub[link])
    return found


def _lower(site: Policy, hub: LinkBudget) -> Policy:
    bounds = [bound for bound in (site.bytes_day_max, hub.bytes_day_max) if bound is not None]
    return Policy(
        bytes_day_max=min(bounds, default=None),
        hours=site.hours or hub.hours or "",
        full_download=site.full_download and hub.full_download is not False,
    )


def check_settings(found: DeviceSettings, *, node: str, serial_min: int, now: int) -> DeviceSettings:
    """Return settings that this node may take.

    Raises:
        Refused: TRUST_MISMATCH for another node's; TRUST_ROLLBACK for older ones than it has taken; TRUST_EXPIRED.
    """
    if found.node != node:
        raise Refused(Code.TRUST_MISMATCH, f"settings for node {found.node!r} came to node {node!r}")
    if found.serial < serial_min:
        raise Refused(Code.TRUST_ROLLBACK, f"serial of this node's settings: expected {serial_min} or more, found {found.serial}")
    if found.expires <= now:
        raise Refused(Code.TRUST_EXPIRED, f"this node's settings expired at {found.expires}, it is {now}")
    return found
