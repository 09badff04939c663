"""`fleetcast tokens`: shown once, listed without what opens, revoked by name."""

import json
import os
import subprocess
from pathlib import Path

from hub.cli.errors import Exit
from tests.hub.cli.fleets import BIN, make


def test_a_token_is_shown_once_listed_and_revoked(tmp_path: Path) -> None:
    made = make(tmp_path, "m")
    token = json.loads(made.run("tokens", "make", "ci", "--role", "publisher", "--actor", "ada", "--json").stdout)
    again = made.run("tokens", "make", "ci", "--role", "viewer")
    listed = made.run("tokens", "list", "--json").stdout
    revoked = json.loads(made.run("tokens", "revoke", "ci", "--json").stdout)
    twice = made.run("tokens", "revoke", "ci")
    history = json.loads(made.run("history", "--json").stdout)

    assert token["token"].startswith("fct_")
    assert token["token"] not in listed
    assert [(one["name"], one["role"], one["state"], one["made_by"]) for one in json.loads(listed)] == [("ci", "publisher", "good", "ada")]
    assert (again.returncode, "revoke it first" in again.stderr) == (Exit.REFUSED, True)
    assert revoked["state"] == "revoked"
    assert (twice.returncode, "`fleetcast tokens list`" in twice.stderr) == (Exit.REFUSED, True)
    assert [(one["actor"], one["what"].split(" (")[0]) for one in history if one["kind"] == "token"][-1] == ("ada", "token ci")
    assert token["token"].encode() not in b"".join(path.read_bytes() for path in made.fleet.glob("hub.sqlite*"))


def test_a_token_that_could_not_be_printed_is_revoked(tmp_path: Path) -> None:
    made = make(tmp_path, "m")
    environment = {**os.environ, "FLEETCAST_DIR": str(made.fleet)}
    command = [str(BIN / "fleetcast"), "tokens", "make", "lost", "--role", "viewer"]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, env=environment, check=False)
    (row,) = json.loads(made.run("tokens", "list", "--json").stdout)

    assert (done.returncode, "and it was revoked: make it again" in done.stderr) == (Exit.DISK_FULL, True), done.stderr
    assert row["state"] == "revoked"
