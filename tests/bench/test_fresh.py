"""What `make test-fresh` reads from this machine before it makes a bare one."""

import subprocess

import pytest

from bench import fresh

LISTED = """\
http://mirror.example/security/ bookworm-security Debian-Security main
http://mirror.example/debian/ trixie Debian main
http://mirror.example/old/ bookworm Debian contrib
http://near.example/debian/ bookworm Debian main
https://vendor.example/apt cloud Google Inc main
"""


def test_the_mirror_is_the_one_that_apt_has_this_debian_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DEBIAN_MIRROR", raising=False)
    monkeypatch.setattr(fresh, "_output", lambda *command: LISTED)

    assert fresh.mirror() == "http://near.example/debian/"


def test_without_a_mirror_of_debian_the_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DEBIAN_MIRROR", raising=False)
    monkeypatch.setattr(fresh, "_output", lambda *command: "https://vendor.example/apt cloud Vendor main\n")

    with pytest.raises(SystemExit, match="DEBIAN_MIRROR"):
        fresh.mirror()


def test_only_root_is_let_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    monkeypatch.setattr(subprocess, "run", lambda *command, **more: pytest.fail(f"ran {command}"))

    with pytest.raises(SystemExit, match="sudo make test-fresh"):
        fresh.measure()
