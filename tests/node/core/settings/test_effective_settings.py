"""What is in force: the hub moves and restricts a device, and allows nothing that its site forbids."""

import dataclasses

import pytest

from node.core.delivery.byte_quota import Policy
from node.core.settings.effective_settings import EffectiveSettings, Settable, SiteTerms, check_settings, effective_settings
from schemas.device_settings import DeviceSettings, LinkBudget
from schemas.errors import Code, Refused

SITE = SiteTerms(
    labels={"site": "jfk", "ring": "main"},
    cohort="line",
    telemetry=True,
    budgets={"metered": Policy(bytes_day_max=1000, hours="22:00-05:00")},
)


def hub(**fields: object) -> DeviceSettings:
    return DeviceSettings.model_validate({"node": "jfk-2", "serial": 4, "expires": 100, **fields})


def test_without_the_hub_the_sites_file_is_in_force() -> None:
    assert effective_settings(SITE, None) == EffectiveSettings(SITE.labels, "line", True, SITE.budgets)


def test_the_hub_moves_a_device_by_labels_and_cohort() -> None:
    found = effective_settings(SITE, hub(labels={"ring": "canary"}, cohort="other", display_name="Gate 2"))
    assert found.labels == {"site": "jfk", "ring": "canary"}
    assert (found.cohort, found.display_name, found.serial, found.ignored) == ("other", "Gate 2", 4, ())


@pytest.mark.parametrize(("site", "said", "expected"), [(True, False, False), (False, True, False), (True, True, True), (True, None, True)])
def test_telemetry_can_only_be_turned_off(*, site: bool, said: bool | None, expected: bool) -> None:
    assert effective_settings(dataclasses.replace(SITE, telemetry=site), hub(telemetry=said)).telemetry is expected


def test_a_budget_can_only_be_lowered() -> None:
    more = effective_settings(SITE, hub(budgets={"metered": LinkBudget(bytes_day_max=5000, hours="00:00-24:00", full_download=True)}))
    assert more.budgets["metered"] == SITE.budgets["metered"]
    less = effective_settings(SITE, hub(budgets={"metered": LinkBudget(bytes_day_max=10, full_download=False)}))
    assert less.budgets["metered"] == Policy(bytes_day_max=10, hours="22:00-05:00", full_download=False)
    roaming = effective_settings(SITE, hub(budgets={"roaming": LinkBudget(full_download=True)}))
    assert not roaming.budgets["roaming"].full_download  # by default a road that costs money takes no whole release


@pytest.mark.parametrize("kept", ["labels", "cohort", "budgets", "telemetry"])
def test_what_the_site_does_not_accept_is_ignored_and_named(kept: Settable) -> None:
    site = dataclasses.replace(SITE, accepts=SITE.accepts - {kept})
    said = hub(labels={"ring": "x"}, cohort="x", telemetry=False, budgets={"metered": LinkBudget(bytes_day_max=0)})
    found = effective_settings(site, said)
    assert found.ignored == (kept,)
    assert getattr(found, kept) == getattr(SITE, kept)


@pytest.mark.parametrize(
    ("node", "serial_min", "now", "code"),
    [("lga-1", 0, 0, Code.TRUST_MISMATCH), ("jfk-2", 5, 0, Code.TRUST_ROLLBACK), ("jfk-2", 4, 100, Code.TRUST_EXPIRED)],
)
def test_settings_of_another_node_or_older_or_expired_are_refused(node: str, serial_min: int, now: int, code: Code) -> None:
    with pytest.raises(Refused) as refused:
        check_settings(hub(), node=node, serial_min=serial_min, now=now)
    assert refused.value.code is code
    assert check_settings(hub(), node="jfk-2", serial_min=4, now=99) == hub()
