"""What is wrong with a site's own files is in the node's status, in its doctor and in its state, until the file is corrected."""

from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from fleetcast.time_zones import system_zone
from node.agent.activation.parameters import Parameters
from node.agent.delivery.byte_quota import ByteQuota
from node.core.doctor.agent_health import AgentStatus
from node.host.pidfile import read_status
from node.host.site_parameters import LOOK_SECONDS, Overrides
from node.storage.store import NodeStore
from schemas import codec
from schemas.errors import Refused
from schemas.manifest import Manifest
from schemas.parameters import Parameter
from tests import brokers
from tests.node.agent.test_loop import agent, running, until
from tests.node.agent.test_refused_alone import NewerHub, reported
from tests.trust_fleet import manifest


@pytest.fixture
def embedded(tmp_path: Path) -> Iterator[brokers.Broker]:
    with brokers.running("embedded", tmp_path / "broker") as broker:
        yield broker


def test_a_sites_mistakes_are_reported_until_they_are_corrected(embedded: brokers.Broker, tmp_path: Path) -> None:
    hub, link_file, parameters = NewerHub(embedded, tmp_path), tmp_path / "link", tmp_path / "parameters.toml"
    for model in ("delay", "other"):
        hub.fleet.release("1.0.0", model=model)
    hub.fleet.roll("1.0.0", model="delay")
    hub.client.subscribe(hub.topics.state("n1"))
    hub.say("1.0.0")
    link_file.write_text("Metred\n")
    parameters.write_text("[delya]\nthreshold = 0.7\n")
    node = agent(tmp_path, embedded.url("n1"), fleet=hub.fleet, link_file=link_file, parameters_file=parameters, state_seconds=1)

    def status() -> AgentStatus | None:
        return read_status(tmp_path / "data")

    with closing(hub.client.link), running(node):
        wrong = reported(hub, lambda state: len(state.findings or ()) == 2)
        until(lambda: (one := status()) is not None and len(one.findings) == 2)
        link_file.write_text("free\n")
        parameters.write_text("[delay]\n")
        node._quota._read_at = node._parameters._overrides._looked_at = -1e9  # type: ignore[assignment]  # so that nobody waits
        right = reported(hub, lambda state: state.findings == ())

    assert [(one.kind, one.code) for one in wrong.findings or ()] == [("site", "settings.invalid"), ("site", "parameter.unknown")]
    text = " ".join(one.reason for one in wrong.findings or ())
    assert "has 'Metred', and not one of free, metered, roaming: the link counts as roaming" in text
    assert "expected delay, found delya" in text
    assert (wrong.link, right.link) == ("roaming", "free")


@pytest.mark.parametrize(
    ("said", "link", "wrong"),
    [
        ("metered", "metered", ""),
        ("Metered\n", "metered", ""),
        ("  ROAMING \r\n", "roaming", ""),
        ("", "roaming", "has ''"),
        ("metered roaming", "roaming", "not one of free, metered, roaming"),
        ("\x00\xff" * 500, "roaming", "counts as roaming"),
        (None, "metered", "cannot be read (No such file or directory): the link counts as metered, as `link` says"),
    ],
)
def test_a_link_file_is_read_as_people_write_it_and_what_is_wrong_is_found(tmp_path: Path, said: str | None, link: str, wrong: str) -> None:
    found: list[Any] = []
    file = tmp_path / "link"
    if said is not None:
        file.write_bytes(said.encode("latin-1"))
    store = NodeStore(tmp_path / "node.sqlite")
    quota = ByteQuota(
        store,
        link="metered",
        link_file=file,
        policies={},
        rate_bytes_per_second_max=None,
        wall=lambda: 1_700_000_000.0,  # type: ignore[arg-type,return-value]
        found=lambda refusals: found.append([one.reason for one in refusals]),
    )

    assert quota.link == link
    assert [wrong in reason for reason in found[-1]] == ([True] if wrong else [])


def test_an_unknown_parameter_is_found_also_when_it_is_added_later(tmp_path: Path) -> None:
    path, found = tmp_path / "parameters.toml", dict[str, list[str]]()
    released = codec.decode(Manifest, manifest("1.0.0")).model_copy(
        update={"parameters": (Parameter(name="threshold", goes_to="client", default=0.5, min=0.0, max=1.0),)}
    )

    def take(subject: str, refusals: Any) -> None:
        found[subject] = [str(one) for one in refusals]

    parameters = Parameters(Overrides(path), rollout_parameters=lambda model, digest: {}, refused=lambda refusal, model: None, found=take)
    seen = []
    for number, text in enumerate(
        ["[delay]\nthreshold = 0.7\n", "[delay]\nthreshold = 0.7\ntreshold = 0.9\n", "[delay]\nthreshold = 7.0\n", "[delay\n", ""]
    ):
        path.write_text(text)
        parameters.look((number + 1) * 2 * LOOK_SECONDS)  # type: ignore[arg-type]
        parameters.settings_of(bytes(32), released)
        seen.append((len(found[bytes(32).hex()]), len(found["parameters"])))

    assert seen == [(0, 0), (1, 0), (1, 0), (1, 1), (0, 0)]  # while the file is unreadable, what it set before holds


def test_the_devices_zone_is_that_of_its_clock(tmp_path: Path) -> None:
    summer = datetime(2026, 7, 1, 12, tzinfo=UTC)
    rome = Path("/usr/share/zoneinfo/Europe/Rome")

    assert summer.astimezone(system_zone({"TZ": "America/Havana"})).hour == 8
    assert summer.astimezone(system_zone({"TZ": ":America/Havana"})).hour == 8
    if rome.exists():
        assert summer.astimezone(system_zone({}, rome)).hour == 14
    assert system_zone({}, tmp_path / "absent") is not None
    assert system_zone({"TZ": "Nowhere/Atall"}) is not None


def test_an_unknown_time_zone_is_refused_with_its_mend(tmp_path: Path) -> None:
    from node.settings import load

    lines = ['id = "n1"', 'fleet = "f"', 'broker = "mqtt://127.0.0.1:1"', 'data = "data"', 'root = "root.json"']
    (tmp_path / "node.toml").write_text("\n".join([*lines, 'time_zone = "Rome"']) + "\n")

    with pytest.raises(Refused, match="there is no time zone 'Rome' here: write it as Europe/Rome"):
        load(tmp_path / "node.toml")
