"""Pictures are functions of frozen values: each is compared with its file; `python -m tests.hub.web.test_pictures` writes the files."""

import re
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from hub.core.rollouts.tally import ClassName
from hub.web.pictures.bullet import bullet, planned_and_spent
from hub.web.pictures.cells import CELLS_MAX, Cell, per_cell, stages
from hub.web.pictures.evidence import Evidence, Interval, evidence
from hub.web.pictures.flow import POINTS, STEP_SECONDS, Flow, Release, flow
from hub.web.pictures.histogram import Bin, Histogram, histogram
from hub.web.pictures.strip import strip
from hub.web.pictures.svg import DEFS, Picture

FOLDER = Path(__file__).parent / "pictures"
NOW = 1_796_000_400
HOSTILE = '"><script>alert(1)</script>\x1b[31m\u202egone' + "x" * 300


def cells(states: str, site: str, **titles: str) -> list[Cell]:
    names: dict[str, ClassName] = {
        "s": "serving", "m": "moving", "w": "waiting", "r": "refused", "b": "rolled_back", "u": "unreachable", "e": "expired"
    }  # fmt: skip
    return [
        Cell(f"{site}-{at:0{max(2, len(str(len(states))))}}", site, names[one], titles.get(one, ""), 0.7) for at, one in enumerate(states)
    ]


def a_rollout() -> list[list[Cell]]:
    third = cells("ssssmwwuuuuumb", "ewr", m="fetching 70 %", b="probation.errors") + cells("sssssssmsswwre", "jfk", r="model.too_slow")
    return [cells("sssss", "lab"), third, cells("w" * 22, "jfk") + cells("w" * 17, "lga")]


def ten_thousand() -> list[Cell]:
    states = ["s" * 2000 + "m" * 31 + "w" * 469, "s" * 1000 + "rrr" + "s" * 1497, "u" * 50 + "s" * 2450, "w" * 2500]
    return [one for site, row in zip(("ewr", "jfk", "lga", "ord"), states, strict=True) for one in cells(row, site, r="model.too_slow")]


def a_flow() -> Flow:
    old = tuple(max(1, 120 - 5 * at) for at in range(POINTS))
    new = tuple(0 if at < 50 else 6 * (at - 49) for at in range(POINTS))
    present = tuple(149 - one - two for one, two in zip(old, new, strict=True))
    releases = (Release("1.3.1", old), Release("1.3.2", present), Release("1.4.0", new))
    return Flow("delay", NOW, releases, "1.4.0", "1.3.2", ((NOW - 5 * STEP_SECONDS, NOW - 4 * STEP_SECONDS),))


def a_histogram() -> Histogram:
    shares = (0.079, 0.096, 0.108, 0.119, 0.13, 0.141, 0.152, 0.175)
    labels = ("<2.0", "2.0", "2.2", "2.4", "2.6", "2.8", "3.0", "≥3.2")
    return Histogram("seam_width", tuple(Bin(label, 0.125, share, 0.02) for label, share in zip(labels, shares, strict=True)))


def an_evidence() -> Evidence:
    day = 86_400
    found = tuple(Interval(NOW - (40 - at) * day // 4, 0.3 if at < 25 else 0.3 * (at - 24), 3.0 if at < 20 else 2.7) for at in range(41))
    return Evidence("weld 2.1.0 line-1", found, began=found[25].at, alarm=found[33].at)


def drawn() -> dict[str, str]:
    shown = evidence(an_evidence())
    assert shown is not None
    found = stages(a_rollout())
    return {
        "strip": str(strip({"serving": 246, "moving": 13, "waiting": 88, "refused": 2, "rolled_back": 1, "unreachable": 8}).__html__()),
        "stages": "\n".join((*found.pictures, found.figures)),
        "ten-thousand": stages([ten_thousand()]).pictures[0],
        "flow": flow(a_flow()).__html__(),
        "histogram": histogram(a_histogram()).__html__(),
        "evidence": shown.__html__(),
        "bytes": planned_and_spent(31, 118, full=402, label="31 of 118 MB") + planned_and_spent(9, 5, full=402, label="9 of 5 MB"),
        "bullet": bullet(22, 50, full=60, label="22, at least 50"),
    }


@pytest.mark.parametrize("name", sorted(drawn()))
def test_a_picture_is_as_its_file_has_it(name: str) -> None:
    assert (FOLDER / f"{name}.svg").read_text() == drawn()[name] + "\n"


@pytest.mark.parametrize("name", sorted(drawn()))
def test_a_picture_is_labelled_well_formed_and_has_no_style_or_script(name: str) -> None:
    text = drawn()[name]
    root = ET.fromstring(f"<all>{text}</all>")  # noqa: S314  # of our own making
    images = [one for one in root.iter() if one.get("role") == "img"]
    assert images
    assert all(one.get("aria-label") for one in images)
    assert not re.search(r" style=|<script| on\w+=|javascript:|http", text)


@pytest.mark.parametrize(
    ("nodes", "size"), [(0, 1), (12, 1), (400, 1), (401, 2), (800, 2), (801, 5), (4001, 20), (10_000, 50), (80_000, 200), (1_000_000, 2600)]
)
def test_a_picture_has_at_most_400_cells_of_a_round_size(nodes: int, size: int) -> None:
    assert per_cell(nodes) == size
    assert nodes <= CELLS_MAX * size


def test_ten_thousand_well_nodes_cost_one_kibibyte() -> None:
    well = [Cell(f"node-{at:05}", f"site-{at % 4}", "serving") for at in range(10_000)]
    assert len(stages([well]).pictures[0]) < 1024
    assert stages([well]).label == "one cell is 50 nodes, by site"


def test_a_thousand_sites_share_lines_and_stay_small() -> None:
    well = [Cell(f"node-{at:05}", f"site-{at % 1000}", "serving") for at in range(10_000)]
    assert len(stages([well]).pictures[0]) < 1024


def test_a_failure_in_a_cell_of_fifty_says_how_many_and_leads_to_them() -> None:
    text = stages([ten_thousand()]).pictures[0]
    assert "<title>jfk, 3 of 50: refused, model.too_slow</title>" in text
    assert 'href="/nodes?where=node%20in%20%28jfk-1000%2Cjfk-1001%2Cjfk-1002%29"' in text
    assert 'href="/nodes?where=site%3Dlga%2Cstate%3Dunreachable"' in text


def test_figures_of_stages_add_up() -> None:
    rows = re.findall(r"<tr><td>(.*?)</tr>", stages(a_rollout()).figures)
    counts = [[int(one) for one in re.findall(r'<td class="n">(\d+)', row)] for row in rows]
    assert all(sum(row[:-1]) == row[-1] for row in counts)
    assert [sum(column) for column in zip(*counts[:-1], strict=True)] == counts[-1]


def test_words_of_strangers_are_escaped_written_out_and_cut() -> None:
    many = [Cell(f"n{at}", site, "refused", HOSTILE) for at, site in enumerate((HOSTILE, "b"))]
    bins = Histogram(HOSTILE, (Bin(HOSTILE, 0.5, 0.5, 0.1),))
    shown = evidence(Evidence(HOSTILE, (Interval(NOW, 1.0, 3.0),)))
    assert shown is not None
    texts = [
        "".join(stages([many]).pictures),
        histogram(bins).__html__(),
        shown.__html__(),
        flow(Flow(HOSTILE, NOW, (Release(HOSTILE, (1,)),))).__html__(),
        bullet(1, 2, label=HOSTILE),
    ]
    for text in texts:
        assert not any(one in text for one in ("<script", "\x1b", "\u202e"))
        assert "x" * 200 not in text
        ET.fromstring(f"<all>{text}</all>")  # noqa: S314


def test_a_single_node_of_ten_thousand_is_seen_in_the_strip() -> None:
    widths = [float(one) for one in re.findall(r' width="([\d.]+)"', strip({"serving": 9999, "refused": 1}).svg)]
    assert min(widths) >= 3
    assert sum(widths) + 2 == pytest.approx(1000, abs=0.2)


def test_nothing_is_drawn_of_nothing() -> None:
    assert evidence(Evidence("s", ())) is None
    assert strip({}).svg.count("<rect") == 0
    assert isinstance(flow(Flow("m", NOW, ())), Picture)
    assert stages([[]]).pictures[0].count("<path") == 0
    assert "<pattern" in DEFS


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for key, picture in drawn().items():
        (FOLDER / f"{key}.svg").write_text(picture + "\n")
