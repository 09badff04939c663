"""The hub's settings: the environment over the file, and nothing that is not understood."""

from pathlib import Path

import pytest

from hub.settings import load
from schemas.errors import Code, Refused


def written(tmp_path: Path, text: str) -> Path:
    (tmp_path / "fleet.toml").write_text(text)
    return tmp_path


def test_the_environment_wins_over_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLEETCAST_COHORT_NODES_MIN", "7")
    monkeypatch.setenv("FLEETCAST_DIR", str(tmp_path))

    settings = load(written(tmp_path, 'fleet = "main"\ncohort_nodes_min = 5\nsettle_seconds = 3\n'))

    assert (settings.cohort_nodes_min, settings.settle_seconds, settings.alpha) == (7, 3, 0.01)


def test_certificates_are_looked_for_beside_the_file(tmp_path: Path) -> None:
    text = 'fleet = "main"\nbroker_url = "mqtts://h"\ntls_ca = "tls/ca.crt"\ntls_certificate = "tls/hub.crt"\ntls_key = "/etc/hub.key"\n'

    tls = load(written(tmp_path, text)).tls

    assert tls is not None
    assert (tls.ca, tls.key) == (str(tmp_path / "tls/ca.crt"), "/etc/hub.key")


@pytest.mark.parametrize(
    ("text", "environment", "days"),
    [
        ("", {}, 400),
        ("told_days = 7", {}, 7),
        ("history_days = 8", {}, 8),
        ("told_days = 7", {"FLEETCAST_HISTORY_DAYS": "9"}, 9),
        ("history_days = 8", {"FLEETCAST_TOLD_DAYS": "10"}, 10),
        ("", {"FLEETCAST_TOLD_DAYS": "10", "FLEETCAST_HISTORY_DAYS": "9"}, 9),
    ],
)
def test_a_settings_former_name_is_still_read(
    text: str, environment: dict[str, str], days: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    assert load(written(tmp_path, f'fleet = "main"\n{text}\n')).history_days == days


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('fleet = "main"\ntold_days = 7\nhistory_days = 8', "give history_days alone"),
        ('fleet = "main"\ntold_days = 0', "history_days"),
        ("", "fleet"),
        ('fleet = "No Name"', "fleet"),
        ('fleet = "main"\nsettle_second = 3', "settle_second"),
        ('fleet = "main"\nalpha = 2', "alpha"),
        ('fleet = "main', "fleet.toml"),
        ('fleet = "main"\ntls_ca = "ca.crt"', "go together"),
        ('fleet = "main"\nbroker_url = "http://h"', "must look like"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(Refused, match=says) as refusal:
        load(written(tmp_path, text))

    assert refusal.value.code == Code.SETTINGS_INVALID


def test_a_folder_without_settings_is_no_fleets(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="No such file") as refusal:
        load(tmp_path)

    assert refusal.value.code == Code.SETTINGS_INVALID


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('web_listen = "0.0.0.0:8440"', "tokens would be readable on the network"),
        ('web_listen = "hub.example:8440"', "tokens would be readable on the network"),
        ('web_listen = "127.0.0.1"', "must look like 127.0.0.1:8440"),
        ('web_listen = "127.0.0.1:70000"', "must look like 127.0.0.1:8440"),
        ('web_tls_key = "a.key"', "go together"),
    ],
)
def test_the_api_is_on_loopback_unless_it_has_a_certificate(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(Refused, match=words):
        load(written(tmp_path, f'fleet = "main"\n{text}\n'))
    for good in ("[::1]:0", "localhost:0", ""):
        load(written(tmp_path, f'fleet = "main"\nweb_listen = "{good}"\n'))
