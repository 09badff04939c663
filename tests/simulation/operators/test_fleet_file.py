"""fleet.toml: what is wrong with it is said with the file, the line, the key, and what would be right."""

import re

import pytest

from schemas.errors import Code, Refused
from simulation.core.plan import Plan
from simulation.example import EXAMPLE
from simulation.fleet_file import FleetFile, plan_of, sizes_of

GOOD = """\
nodes = 100
[release]
full_bytes = 500000
delta_bytes = 200000
[rollout]
stages = "10,100"
[links.own]
like = "nb-iot"
[[groups]]
name = "a"
share = 60
link = "own"
on = "always"
[[groups]]
name = "b"
share = 40
link = "wifi"
"""


def plan(text: str, nodes: int | None = None) -> Plan:
    file = FleetFile("fleet.toml", text)
    table = file.table()
    return plan_of(file, table, sizes_of(table.release), nodes=nodes)


def test_the_example_and_the_short_file_are_taken() -> None:
    assert [group.nodes for group in plan(EXAMPLE).groups] == [4500, 3000, 2000, 500]
    assert [group.nodes for group in plan(GOOD, nodes=7).groups] == [4, 3]
    assert plan(GOOD).groups[0].fetch == sizes_of(FleetFile("f", GOOD).table().release)["parent"]


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("nodes = 100", "nodes = 0", r"line 1: nodes: .*greater than or equal to 1, found 0"),
        ("nodes = 100\n", "", r"nodes: with shares, the file needs nodes = NUMBER"),
        ("share = 40", "share = 30", r"line 11: groups\[1\]\.share: the shares of all groups add up to 90: they must add up to 100"),
        ("share = 40", "count = 40", r"some groups have a share and others a count"),
        ("share = 40\n", "", r"group 'b' has neither share nor count"),
        ('on = "always"', 'on = "0m every 6h"', r"line 13: groups\[1\]\.on: '0m every 6h' never is on"),
        ('on = "always"', 'on = "08:00-08:00"', r"line 13: groups\[1\]\.on: .*never opens"),
        ('on = "always"', 'on = "sometimes"', r"groups\[1\]\.on: .*always, times such as"),
        ('on = "always"', 'on = "7h every 6h"', r"for as long as its period"),
        (
            'on = "always"',
            "budget_bytes_day = 1000",
            r"line 13: groups\[1\]\.budget_bytes_day: it is 1000, and one block .* give at least 40000",
        ),
        ('on = "always"', 'hours = "22:00"', r"groups\[1\]\.hours: hours '22:00' must look like"),
        ('on = "always"', 'zone = "Mars/Dust"', r"groups\[1\]\.zone: there is no time zone"),
        ('on = "always"', 'oon = "always"', r"line 13: groups\[1\]\.oon: unknown key: did you mean 'on'\?"),
        ('link = "wifi"', 'link = "wify"', r"line 17: groups\[2\]\.link: there is no link 'wify': did you mean 'wifi'\?"),
        ('link = "wifi"', 'link = "wifi"\nserves = "1.0.0"', r"line 18: groups\[2\]\.serves: '1.0.0' is none of parent"),
        ('name = "b"', 'name = "a"', r"line 15: groups\[2\]\.name: two groups are called 'a'"),
        ('like = "nb-iot"', "rate_kbit_s = 10", r"line 7: links\.own: it needs rate_kbit_s and latency_seconds"),
        ('stages = "10,100"', 'stages = "10,ten"', r"line 6: rollout\.stages: .*ten"),
        ('stages = "10,100"', 'activate = "25:00-26:00"', r"line 6: rollout\.activate: "),
        ('stages = "10,100"', 'deadline = "soon"', r"line 6: rollout\.deadline: 'soon' is no time from the start"),
        ('stages = "10,100"', "retrys = 1", r"line 6: rollout\.retrys: unknown key: did you mean 'retries'\?"),
        ("full_bytes = 500000", "full_bytes = 'much'", r"line 3: release\.full_bytes: .*integer, found 'much'"),
        ("full_bytes = 500000\n", "", r"release: give either full_bytes, or directory"),
        ("nodes = 100", "nodes = 100\nstart = 1960-01-01", r"line 2: start: .*datetime"),
        ("nodes = 100", "nodes = 100\nstart = 1960-01-01T00:00:00Z", r"line 2: start: the year must be from 1971"),
        ("delta_bytes = 200000", "delta_bytes = 600000", r"release: delta_bytes is more than full_bytes"),
        ("[release]", "[release", r"is not TOML"),
    ],
)
def test_what_is_wrong_is_said_with_its_line_key_and_mend(before: str, after: str, said: str) -> None:
    assert before in GOOD
    with pytest.raises(Refused, match=re.escape("fleet.toml")) as refused:
        plan(GOOD.replace(before, after, 1))

    assert refused.value.code == Code.SETTINGS_INVALID
    assert refused.value.reason.startswith("fleet.toml")
    assert re.search(said, refused.value.reason), refused.value.reason


def test_a_start_without_a_zone_is_in_utc_on_every_machine() -> None:
    assert plan("start = 2026-01-05T08:00:00\n" + GOOD).start == plan("start = 2026-01-05T08:00:00Z\n" + GOOD).start
    assert plan("start = 2026-01-05T08:00:00+01:00\n" + GOOD).start == plan(GOOD).start - 3600
