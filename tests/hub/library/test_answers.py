"""What a fleet answers a program with: results, tables, frames, and errors with a code and a mend."""

from dataclasses import replace
from datetime import datetime

import polars as pl
import pytest

import fleetcast
from fleetcast.absent_modules import absent
from tests.hub.cli.fleets import Made
from tests.hub.library.scenes import MODEL


def test_nodes_become_frames_with_a_column_for_each_label(fleet: fleetcast.Fleet) -> None:
    nodes = fleet.nodes(where="site=jfk")

    pandas, polars = nodes.to_pandas(), nodes.to_polars()

    assert list(pandas["node"]) == polars["node"].to_list() == ["n1", "n2"]
    assert list(pandas["labels.site"]) == ["jfk", "jfk"]
    assert pandas["labels.tier"].isna().tolist() == [True, False]
    assert str(pandas["last_seen"].dtype) == "datetime64[us, UTC]"
    assert polars.schema["last_seen"] == pl.Datetime("us", "UTC")
    assert list(pandas.columns) == polars.columns


def test_an_empty_table_has_the_columns_and_types_of_a_full_one(fleet: fleetcast.Fleet) -> None:
    drift = fleet.drift()

    assert len(drift) == 0
    assert {"model", "cohort", "alarm", "evidence"} <= set(drift.to_pandas().columns)
    assert str(drift.to_pandas()["windows"].dtype) == "Int64"
    assert drift.to_polars().schema["alarm"] == pl.Boolean
    assert len(fleet.drift_signals().to_polars()) == 0
    assert repr(drift) == "<no DriftStream>"


def test_a_table_is_a_sequence_that_shows_its_rows(fleet: fleetcast.Fleet) -> None:
    nodes = fleet.nodes()

    assert [one.node for one in nodes[1:]] == ["n2", "n3"]
    assert nodes[0].labels == {"site": "jfk"}
    assert isinstance(nodes[0].last_seen, datetime)
    assert "labels.site" in repr(nodes).splitlines()[0]
    assert len(repr(nodes).splitlines()) == 4


def test_what_nodes_say_is_escaped_in_a_notebook(fleet: fleetcast.Fleet) -> None:
    node = replace(fleet.node("n2"), software="<b>lab</b>", labels={"<b>": "<b>lab</b>"})

    for html in (fleetcast.Table(fleetcast.Node, [node])._repr_html_(), node._repr_html_()):
        assert "&lt;b&gt;lab&lt;/b&gt;" in html
        assert "<b>" not in html


def test_control_characters_do_not_reach_the_terminal() -> None:
    event = fleetcast.Event(1, datetime.now().astimezone(), "node", "\x1b[31mred\n", None)

    assert str(event).endswith("\\x1b[31mred\\n")
    assert "\x1b" not in repr(fleetcast.Table(fleetcast.Event, [event]))


@pytest.mark.parametrize(("library", "frame"), [("pandas", "to_pandas"), ("polars", "to_polars")])
def test_a_library_that_is_absent_is_named_with_its_extra(
    library: str, frame: str, fleet: fleetcast.Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes = fleet.nodes()
    monkeypatch.delitem(__import__("sys").modules, library, raising=False)

    with (
        absent(library),
        pytest.raises(fleetcast.NotInstalled, match=rf"{frame}\(\) needs {library}, .* with its extra \[{library}\]") as caught,
    ):
        getattr(nodes, frame)()

    assert isinstance(caught.value, ImportError)
    assert (caught.value.extra, caught.value.code) == (library, "package.absent")


def test_a_closed_fleet_says_so_whatever_is_asked(made: Made) -> None:
    fleet = fleetcast.open(made.fleet)
    fleet.close()
    fleet.close()

    asks = [fleet.nodes, fleet.models, lambda: fleet.plan("delay@1.0.0"), lambda: fleet.name, lambda: next(fleet.events())]
    for ask in asks:
        with pytest.raises(fleetcast.FleetClosed, match="is closed: open it again"):
            ask()
    assert repr(fleet) == f"<fleet {made.fleet}, closed>"


def test_without_a_hub_a_rollout_waits_and_says_what_for(fleet: fleetcast.Fleet) -> None:
    rollout = fleet.roll_out("delay@1.0.0", stages=["canary: site=jfk", 50, 100], where="site=jfk", timeout=0)

    assert rollout.done is not None
    assert rollout.done.state == "open"
    assert rollout.deployment == "site-jfk"
    assert rollout.status is None
    assert "no hub runs here now: it waits until one starts" in rollout.done.notes
    assert rollout.warnings == rollout.done.warnings != ()
    assert "checked for no profile" in rollout.warnings[0]
    with pytest.raises(fleetcast.NotInTime, match=r"no hub has begun the rollout of delay@1\.0\.0: it waits for one"):
        rollout.wait()


@pytest.mark.parametrize(
    ("wish", "said"),
    [
        ({"stages": [50, 10]}, "rise"),
        ({"stages": "canary site=jfk"}, "canary site=jfk"),
        ({"where": "site=nowhere"}, "site=nowhere"),
        ({"where": "site="}, "site"),
        ({"activate": "someday"}, "someday"),
    ],
)
def test_a_rollout_that_cannot_be_is_refused_before_it_is_queued(wish: dict[str, str], said: str, fleet: fleetcast.Fleet) -> None:
    with pytest.raises(fleetcast.Refused, match=said) as caught:
        fleet.roll_out("delay@1.0.0", **wish)  # type: ignore[arg-type]

    assert caught.value.mend


@pytest.mark.parametrize(
    ("wish", "error", "said"),
    [
        ({"soak": "an hour"}, ValueError, "soak must be a duration such as '90s'"),
        ({"soak": -1}, ValueError, "soak must be between 0"),
        ({"soak": True}, TypeError, "soak must be seconds"),
        ({"stages": [10.0, 100]}, TypeError, "stages must be whole percents"),
        ({"deadline": datetime(2030, 1, 1)}, ValueError, "has no time zone"),
        ({"approve": "100"}, TypeError, "approve must be a list"),
    ],
)
def test_a_wrong_argument_is_named_with_what_it_must_be(
    wish: dict[str, object], error: type[Exception], said: str, fleet: fleetcast.Fleet
) -> None:
    with pytest.raises(error, match=said):
        fleet.roll_out("delay@1.0.0", **wish)  # type: ignore[arg-type]


def test_what_is_not_there_is_refused_by_its_name(fleet: fleetcast.Fleet) -> None:
    with pytest.raises(fleetcast.Refused, match="there is no release delay@9"):
        fleet.release("delay@9.0.0")
    with pytest.raises(fleetcast.Refused, match="there is no model 'nosuch'; there are arrivals, delay"):
        fleet.releases("nosuch")
    with pytest.raises(fleetcast.Refused, match="'n9' has never reported"):
        fleet.node("n9")
    with pytest.raises(fleetcast.Refused, match="there is no deployment default of delay; there are none"):
        fleet.rollout(MODEL)
    with pytest.raises(ValueError, match=r"expected the name of a release, such as .delay@1\.2\.0"):
        fleet.plan("delay")


def test_a_folder_without_a_fleet_says_how_to_make_one(tmp_path: object) -> None:
    with pytest.raises(fleetcast.Refused, match=r"there is no fleet in .*: `fleetcast init` makes one"):
        fleetcast.open(str(tmp_path))


def test_the_fleet_sums_itself_up(fleet: fleetcast.Fleet) -> None:
    assert fleet.name == "f"
    assert fleet.models() == ("arrivals", MODEL)
    assert set(fleet.classes()) == {"refused", "rolled_back", "unreachable", "expired", "moving", "waiting", "serving"}
    assert repr(fleet).startswith("<fleet /")
