"""Receivers in fleet.toml: what is understood, and what is refused with a sentence that names the field."""

from pathlib import Path

import pytest

from hub.settings import load
from schemas.errors import Refused

GOOD = """fleet = "plant"

[[webhooks]]
url = "https://alerts.example/fleetcast"
secret_file = "pager.secret"
kinds = ["drift", "rollout_halted"]

[[webhooks]]
name = "other"
url = "http://127.0.0.1:9/"
secret_file = "/etc/other.secret"

[[on_drift]]
name = "retrain"
models = ["delay"]
command = ["/opt/retrain", "--quick"]

[on_drift.environment]
DATA = "/srv/data"
"""


def write(directory: Path, text: str) -> Path:
    (directory / "fleet.toml").write_text(text)
    return directory


def test_receivers_are_read_and_their_files_are_beside_the_settings(tmp_path: Path) -> None:
    settings = load(write(tmp_path, GOOD))

    assert [one.receiver for one in settings.webhooks] == ["webhook alerts.example", "webhook other"]
    assert [one.secret_file for one in settings.webhooks] == [str(tmp_path / "pager.secret"), "/etc/other.secret"]
    (hook,) = settings.on_drift
    assert (hook.receiver, hook.command, hook.environment) == ("on_drift retrain", ("/opt/retrain", "--quick"), {"DATA": "/srv/data"})


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("https://alerts.example/fleetcast", "ftp://alerts.example", "must look like https://"),
        ("https://alerts.example/fleetcast", "https://me:secret@alerts.example", "remove the password from the url"),
        ('"rollout_halted"', '"rollout_holted"', "unknown kind of alert: rollout_holted; known kinds: drift"),
        (
            'name = "other"\nurl = "http://127.0.0.1:9/"',
            'url = "https://alerts.example/2"',
            "two receivers are called 'webhook alerts.example'",
        ),
        ('secret_file = "pager.secret"\n', "", "webhooks.0.secret_file: Field required"),
        ('command = ["/opt/retrain", "--quick"]', "", "give either a command or a url"),
        ('command = ["/opt/retrain", "--quick"]', 'command = ["a"]\nurl = "https://x.example"', "give either a command or a url"),
        ('command = ["/opt/retrain", "--quick"]', 'url = "https://x.example"', "a url needs a secret_file"),
        ('command = ["/opt/retrain", "--quick"]', 'command = [""]', "the command names no program"),
        ('name = "retrain"', 'name = "re train"', "on_drift.0.name"),
        ('models = ["delay"]', "timeout_seconds = 0", "on_drift.0.timeout_seconds"),
        ('models = ["delay"]', "shell = true", "on_drift.0.shell"),
    ],
)
def test_what_makes_no_sense_is_refused_and_the_sentence_says_what(tmp_path: Path, before: str, after: str, said: str) -> None:
    assert before in GOOD
    with pytest.raises(Refused) as refused:
        load(write(tmp_path, GOOD.replace(before, after)))

    assert said in refused.value.reason


def test_a_hub_whose_secret_is_missing_does_not_start(tmp_path: Path) -> None:
    from tests.hub.hubs import Fleet

    fleet = Fleet(tmp_path / "fleet")
    settings = load(write(tmp_path, GOOD))
    with pytest.raises(Refused, match=r"secret file .*pager.secret: No such file"), fleet.hub(None, webhooks=settings.webhooks[:1]):
        pass
