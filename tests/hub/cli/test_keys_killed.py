"""`fleetcast keys rotate`, killed before and after each of its durable writes: a hub goes on, and a repetition finishes it."""

import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from fleetcast import durable
from hub.cli.key_rotation import rotate
from hub.signing.key_places import ONLINE, signer_of, stem_of
from hub.signing.tuf_repository import Repository
from schemas.errors import Code, Refused
from tests.hub.cli.fleets import Made, make

ROLES = ("targets", "timestamp", "rollouts")


class KilledError(BaseException):
    """Stand for SIGKILL: nothing after it runs."""


class Writes:
    """Count durable writes, and end the process before or after one of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count, self.killed_at = 0, -1
        self.killed_after: tuple[str, str] | None = None  # The act and the end of the path that it was about.
        for name in ("write", "create", "rename"):
            monkeypatch.setattr(durable, name, self._counted(getattr(durable, name)))

    def _counted(self, act: Callable[..., None]) -> Callable[..., None]:
        def counted(*arguments: Any, **named: Any) -> None:
            self._step()
            act(*arguments, **named)
            self._step()
            if self.killed_after is not None and self.killed_after[0] == act.__name__ and str(arguments[-1]).endswith(self.killed_after[1]):
                raise KilledError

        return counted

    def _step(self) -> None:
        self.count += 1
        if self.count == self.killed_at:
            raise KilledError


def run(made: Made) -> None:
    """The command, in this process: it has no context of a command line, and needs none."""
    given: dict[str, Any] = {"models": (), "keep": (), "keep_all": False, "new_keys": (), "offer_file": None, "key_files": ()}
    places: dict[str, Any] = {"directory": made.fleet, "passphrase_file": made.secret, "key_passphrases": (), "as_json": True}
    assert rotate.callback is not None
    rotate.callback(roles=ROLES, **given, **places)


def vouch(made: Made) -> Refused | None:
    """What a hub does that starts or runs now, two hours later, or why it does nothing."""
    repository, now = Repository(made.fleet / "trust"), datetime.now(UTC) + timedelta(hours=2)
    keys: Any = {role: signer_of(stem_of(made.fleet, role), repository.keyids(role), b"test") for role in ONLINE}
    repository.renew_rollouts(rollouts=keys.pop("rollouts"), now=now)
    try:
        assert repository.refresh(**keys, now=now)
    except Refused as refusal:
        return refusal
    return None


def test_a_rotation_that_is_killed_anywhere_leaves_a_hub_that_signs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "pristine").mkdir()
    pristine = make(tmp_path / "pristine", "m")
    writes, at, waits = Writes(monkeypatch), 0, 0
    while True:
        at += 1
        shutil.copytree(pristine.folder, tmp_path / str(at))
        made = Made(tmp_path / str(at))
        before = {role: Repository(made.fleet / "trust").keyids(role) for role in ROLES}
        writes.count, writes.killed_at = 0, at
        try:
            run(made)
        except KilledError:
            writes.killed_at = -1
            refusal = vouch(made)
            if refusal is not None:  # The root names a new targets key, and the targets role is not signed with it yet.
                assert (refusal.code, "targets" in refusal.reason) == (Code.KEY_NOT_AUTHORISED, True)
                waits += 1
            run(made)
            assert vouch(made) is None
            after = {role: Repository(made.fleet / "trust").keyids(role) for role in ROLES}
            assert not [role for role in ROLES if set(before[role]) & set(after[role])]
            assert not list(made.fleet.glob("*/*.next*"))
            shutil.rmtree(made.folder)
            continue
        break
    capsys.readouterr()

    assert at > 16
    assert waits <= 4, "only between root and targets, each of which is written with its copy"


def test_a_rotation_that_is_killed_twice_keeps_the_key_that_the_metadata_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made = make(tmp_path, "m")
    writes, path = Writes(monkeypatch), made.fleet / "online" / "timestamp.next.pem"
    writes.killed_after = ("rename", "online/timestamp.pem")
    with pytest.raises(KilledError):  # The key has taken its place, and its public half still waits.
        run(made)
    create = durable.create

    def killed(target: Path, data: bytes) -> None:
        create(target, data)
        if target == path:
            raise KilledError  # The next key waits, and its public half is not written yet.

    writes.killed_after = None
    monkeypatch.setattr(durable, "create", killed)
    with pytest.raises(KilledError):
        run(made)
    monkeypatch.setattr(durable, "create", create)

    run(made)

    assert vouch(made) is None
    capsys.readouterr()


@pytest.mark.slow
def test_a_team_rotation_that_is_killed_before_it_signs_is_shown_with_its_mend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = make(tmp_path, "m")
    done = made.publish("1.0.0", "--calibrate-rows", "0")
    assert done.returncode == 0, done.stderr
    given: dict[str, Any] = {"models": (), "keep": (), "keep_all": True, "new_keys": (), "offer_file": None, "key_files": ()}
    places: dict[str, Any] = {"directory": made.fleet, "passphrase_file": made.secret, "key_passphrases": (), "as_json": True}

    def killed(*_: object) -> None:
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr("hub.cli.key_rotation._take_over_releases", killed)
        assert rotate.callback is not None
        with pytest.raises(KilledError):
            rotate.callback(roles=("team",), **given, **places)

    mend = "fleetcast keys rotate team --keep-all"
    assert f"`{mend}`" in made.run("keys", "show").stderr
    assert f"`{mend}`" in made.run("status").stdout
    done = made.run(*mend.split()[1:], "--passphrase-file", str(made.secret))
    assert done.returncode == 0, done.stderr
    assert "has not signed" not in made.run("keys", "show").stderr
    assert "has not signed" not in made.run("status").stdout
