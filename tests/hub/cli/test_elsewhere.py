"""Commands of a fleet on PostgreSQL: keys that a hub on another machine lacks, and a database that a newer program has made."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from sqlalchemy import text

from hub.cli import key_files
from hub.cli.commands import command
from hub.cli.errors import Ended, Exit
from hub.database.connection import Database
from hub.database.members import Member, Members
from hub.signing.metadata_database import _database
from schemas.errors import Code, Refused
from tests import warm
from tests.databases import needs_postgresql, postgresql_url

pytestmark = [needs_postgresql, pytest.mark.postgres]
# What each command is called with; those that open no fleet's database are in NO_DATABASE.
ARGUMENTS = {
    "apply": ["blueprint.yaml"],
    "check": ["delay@1.0.0", "--profile", "pi4"],
    "deploy list": ["delay"],
    "deploy remove": ["delay", "all"],
    "deploy set": ["delay", "all"],
    "diff": ["blueprint.yaml"],
    "drift explain": ["delay"],
    "enroll revoke": ["n1"],
    "enroll token": ["--node", "n1"],
    "export": ["delay@1.0.0", "out.fleet"],
    "export-windows": ["--model", "delay", "--out", "out.parquet"],
    "hub": ["."],
    "keys ceremony": ["--apply", "offer.json"],
    "keys minimum": ["delay@1.0.0"],
    "keys revoke node": ["n1"],
    "keys rotate": ["timestamp"],
    "ledger": ["delay@1.0.0"],
    "models remove": ["delay", "--yes"],
    "nodes forget": ["n1"],
    "nodes label": ["n1", "site=a"],
    "nodes list": ["n1"],
    "nodes replace": ["n1"],
    "nodes set": ["n1", "cohort=a"],
    "nodes settings": ["n1"],
    "plan": ["delay@1.0.0"],
    "publish": ["model.onnx", "--name", "delay", "--version", "1.0.0"],
    "releases export-signature": ["delay@1.0.0", "--out", "statement.json"],
    "releases remove": ["delay@1.0.0", "--yes"],
    "rollout approve": ["delay"],
    "rollout back": ["delay"],
    "rollout halt": ["delay"],
    "rollout resume": ["delay"],
    "rollout retry": ["delay"],
    "rollout set": ["delay", "threshold=1"],
    "rollout start": ["delay@1.0.0"],
    "tokens make": ["ci", "--role", "viewer"],
    "tokens revoke": ["ci"],
}
NO_DATABASE = {
    "access-list",  # writes what fleet.toml says
    "ca init",
    "ca issue-client",
    "ca issue-server",
    "ca renew-issuer",
    "ca show",
    "completion",
    "init",
    "keys make",
    "quickstart",
    "simulate",
}


def verbs(found: click.Command, words: tuple[str, ...] = ()) -> Iterator[str]:
    """All commands that are no groups."""
    if not isinstance(found, click.Group):
        yield " ".join(words)
        return
    if words and found.invoke_without_command:
        yield " ".join(words)
    with click.Context(found) as context:
        for name in found.list_commands(context):
            inner = found.get_command(context, name)
            assert inner is not None
            yield from verbs(inner, (*words, name))


@pytest.fixture
def plant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fleet in a folder, whose metadata is in PostgreSQL; commands run in process."""
    (tmp_path / "secret").write_text("test\n")
    (tmp_path / "secret").chmod(0o600)
    folder, url = tmp_path / "plant", postgresql_url(tmp_path / "hub")
    arguments = ("--fleet", "plant", "--model", "delay", "--database-url", url, "--broker", "mqtt://127.0.0.1:1")
    done = warm.run("fleetcast", "init", folder, *arguments, "--passphrase-file", tmp_path / "secret")
    assert done.returncode == 0, done.stderr
    monkeypatch.setenv("FLEETCAST_DIR", str(folder))
    monkeypatch.setenv("FLEETCAST_PASSPHRASE_FILE", str(tmp_path / "secret"))
    monkeypatch.chdir(folder)
    (folder / "blueprint.yaml").write_text("blueprint: 1\nfleet: plant\n")
    for name in ("model.onnx", "offer.json"):
        (folder / name).write_text("")
    return folder


def call(*words: str) -> Any:
    return command(list(words), prog_name="fleetcast", standalone_mode=False)


def url_of(plant: Path) -> str:
    return next(line.partition(" = ")[2].strip('"') for line in (plant / "fleet.toml").read_text().splitlines() if "database_url" in line)


def beat(plant: Path, name: str, *, folder: str, host: str, term: int) -> None:
    roles = "controller" if term else "standby"
    Members(Database(url_of(plant))).beat(Member(name, roles, "1/1", host, 7, "0", 0, listens=True, term=term, folder=folder))


def test_a_rotation_names_the_machine_that_leads_and_the_files_it_lacks(
    plant: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(key_files, "ANNOUNCED_SECONDS", 0.3)
    beat(plant, "ctl-b", folder="/srv/plant", host="edge-2", term=1)
    beat(plant, "ctl-c", folder="/srv/other", host="edge-3", term=0)
    with pytest.raises(Ended) as caught:
        call("keys", "rotate", "timestamp", "rollouts")

    assert caught.value.code == Exit.KEY
    said = str(caught.value)
    assert f"copy {plant}/online/timestamp.pem, {plant}/online/rollouts.pem to /srv/plant/online on edge-2" in said
    assert "ctl-b (pid 7), which leads" in said
    assert "/srv/other/online on edge-3, for ctl-c (pid 7), which stands by" in said
    assert "announced" in capsys.readouterr().out


def test_a_rotation_where_this_folder_leads_warns_of_those_that_stand_by(
    plant: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(key_files, "ANNOUNCED_SECONDS", 0.0)
    beat(plant, "ctl-c", folder="/srv/other", host="edge-3", term=0)
    call("keys", "rotate", "snapshot")
    assert f"warning: copy {plant}/online/snapshot.pem to /srv/other/online on edge-3" in capsys.readouterr().err

    call("keys", "rotate", "targets")  # is the hub's in no folder
    assert "copy" not in capsys.readouterr().err


def test_every_command_refuses_a_database_of_a_newer_program(plant: Path) -> None:
    database = Database(url_of(plant))
    with database.write() as db:
        db.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    _database.cache_clear()  # A command is a process of its own, which opens the database anew.
    before = sorted(path.name for path in plant.rglob("*"))
    others = {}
    for verb in verbs(command):
        if verb in NO_DATABASE:
            continue
        try:
            call(*verb.split(), *ARGUMENTS.get(verb, ()))
            others[verb] = "done"
        except Refused as refusal:
            if refusal.code is not Code.SCHEMA_UNSUPPORTED or "9999" not in refusal.reason:
                others[verb] = str(refusal)
        except (click.ClickException, Ended, FileNotFoundError) as error:
            others[verb] = repr(error)
        _database.cache_clear()

    assert others.pop("console").startswith("Ended('no console runs")  # asked before the database is
    assert [f"{verb}: {what}" for verb, what in others.items()] == []
    assert sorted(path.name for path in plant.rglob("*")) == before
