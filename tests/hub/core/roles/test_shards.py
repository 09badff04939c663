"""Shards: every name has one, and what is left out or done twice is found."""

import pytest

from hub.core.roles.shards import Shard, findings, parse
from hub.settings import HubSettings
from schemas.errors import Code, Refused

SERVER = {"fleet": "main", "database_url": "postgresql://db/main", "broker_url": "mqtt://broker"}


@pytest.mark.parametrize("count", [1, 2, 7, 64])
def test_every_name_is_in_one_part_and_every_part_has_some(count: int) -> None:
    parts = [Shard(index, count) for index in range(1, count + 1)]
    owners = [[part.index for part in parts if part.has(f"gw-{number}")] for number in range(2000)]

    assert all(len(one) == 1 for one in owners)
    assert {one[0] for one in owners} == set(range(1, count + 1))


@pytest.mark.parametrize("written", ["0/2", "3/2", "1/65", "1", "a/b", "1/2/3", "", "01/2", "-1/2"])
def test_what_is_no_part_is_refused(written: str) -> None:
    with pytest.raises(Refused) as caught:
        parse(written)
    assert caught.value.code is Code.SETTINGS_INVALID


@pytest.mark.parametrize(
    ("shards", "codes"),
    [
        ([], ["shard.gap"]),
        (["1/1"], []),
        (["1/2", "2/2"], []),
        (["2/2"], ["shard.gap"]),
        (["1/3", "3/3"], ["shard.gap"]),
        (["1/2", "2/2", "2/2"], ["shard.overlap"]),
        (["1/2", "1/2"], ["shard.gap", "shard.overlap"]),
        (["1/1", "1/2", "2/2"], ["shard.overlap"]),  # while their number changes
        (["1/2", "2/3"], ["shard.overlap", "shard.gap"]),
    ],
)
def test_gaps_and_overlaps_are_found(shards: list[str], codes: list[str]) -> None:
    found = findings([(f"p{number}", parse(one)) for number, one in enumerate(shards)])

    assert [str(one.code) for one in found] == codes


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"roles": ("ingest",), "database_url": ""}, "database_url"),
        ({"roles": ("blocks",), "broker_url": ""}, "broker_url"),
        ({"roles": ("ingest", "controller"), "shard": "1/2"}, "stands by"),
        ({"roles": ("web",), "shard": "1/2"}, "ingest"),
    ],
)
def test_roles_that_cannot_run_so_are_refused_with_what_is_missing(changes: dict[str, object], words: str) -> None:
    with pytest.raises(Refused, match=words) as caught:
        HubSettings(**{**SERVER, **changes}).check_roles()  # type: ignore[arg-type]
    assert caught.value.code is Code.SETTINGS_INVALID


def test_each_process_has_a_name_and_the_leader_is_always_the_hub() -> None:
    def named(*roles: str, shard: str = "1/1", name: str = "") -> tuple[str, str]:
        settings = HubSettings(**SERVER, roles=roles, shard=shard, name=name)  # type: ignore[arg-type]
        return settings.process_name, settings.client_id

    assert HubSettings(fleet="main").client_id == "hub"
    assert named("controller") == ("controller", "hub")
    assert named("controller", "web", name="a") == ("a", "hub")
    assert named("ingest", shard="2/3") == ("ingest-2-of-3", "hub-ingest-2-of-3")
    assert named("blocks", name="b") == ("b", "hub-b")
