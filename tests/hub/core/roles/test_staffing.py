"""Roles that no process has are found by one process, and a leader without keys hands over once and not to and fro."""

import pytest

from hub.core.roles.shards import Shard
from hub.core.roles.staffing import judges, may_lead, staff_of, wrong
from hub.settings import ROLES, HubSettings
from schemas.errors import Code

ONE = Shard(1, 1)
WHOLE = ("controller", "ingest", "blocks", "web")


@pytest.mark.parametrize("role", ["controller", "blocks", "web"])
def test_a_role_that_no_process_has_is_named_with_what_is_undone(role: str) -> None:
    staff = [staff_of(f"{one}-a", one, ONE) for one in WHOLE if one != role] + [staff_of("other", "standby", ONE)]
    (found,) = wrong(staff, needed=ROLES)
    assert (found.code, found.about) == (Code.ROLE_MISSING, role)
    assert f"no process with the role {role} runs" in found.text
    assert f"fleetcast hub --roles {role}" in found.text


def test_one_process_with_all_roles_lacks_none() -> None:
    assert wrong([staff_of("hub", ",".join(ROLES), ONE)], needed=ROLES) == []


def test_a_web_process_is_needed_only_where_it_has_something_to_do() -> None:
    staff = [staff_of(one, one, ONE) for one in ("controller", "ingest", "blocks")]
    silent = HubSettings(fleet="main", web_listen="")
    assert wrong(staff, needed=silent.needed_roles) == []
    assert [one.about for one in wrong(staff, needed=HubSettings(fleet="main").needed_roles)] == ["web"]


def test_the_leader_reports_and_without_one_the_first_by_name() -> None:
    staff = [staff_of("ingest-1", "ingest", ONE), staff_of("blocks-a", "blocks", ONE), staff_of("a", "standby", ONE)]
    assert [one.name for one in staff if judges(one.name, staff)] == ["blocks-a"]
    staff.append(staff_of("ctl", "controller", ONE))
    assert [one.name for one in staff if judges(one.name, staff)] == ["ctl"]


@pytest.mark.parametrize(("lacks", "able", "leads"), [(True, ["b"], False), (True, [], True), (False, ["b"], True)])
def test_without_its_keys_a_process_leads_only_where_no_other_could(lacks: bool, able: list[str], leads: bool) -> None:
    assert may_lead(lacks_keys=lacks, able=able) is leads
