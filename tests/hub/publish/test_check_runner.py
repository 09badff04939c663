"""The hub's side of a check: whatever becomes of the process that proves, there is an answer, and nothing runs on."""

import subprocess
import sys
from pathlib import Path

import pytest

from hub.core.publish.check_rules import BUILT_IN
from hub.publish import check_runner
from hub.publish.check_runner import Absent, prover, run
from hub.publish.memory_limit import inside, memory_cgroup
from schemas.limits import MIB
from tests.hub.hubs import until

TINY = BUILT_IN["tiny"]
PASSED = '{"passed": true, "cores": 1}'


def said(program: str, *, seconds_max: float = 100.0) -> check_runner.Tried:
    """What is made of a prover that is this Python program."""
    command = [sys.executable, "-c", program]
    return run(command, Path("manifest"), Path("files"), variant="v", profile=TINY, seconds_max=seconds_max)


def gone(pid: int) -> bool:
    try:
        return "Z" in Path(f"/proc/{pid}/stat").read_text().split()[2]
    except OSError:
        return True


def test_the_prover_is_asked_for_the_profiles_own_limits() -> None:
    tried = said("import json, sys; print(json.dumps({'passed': False, 'reason': ' '.join(sys.argv[1:])}))")

    assert "prove --json --manifest manifest --files files --variant v" in tried.proof.reason
    assert f"--threads 1 --cores 1 --memory-bytes {128 * MIB}" in tried.proof.reason


def test_a_prover_that_never_ends_is_ended_with_all_that_it_started(tmp_path: Path) -> None:
    program = "import os, subprocess, sys, time; child = subprocess.Popen(['sleep', '600']); "
    program += f"open({str(tmp_path / 'pids')!r}, 'w').write(f'{{os.getpid()}} {{child.pid}}'); time.sleep(600)"

    tried = said(program, seconds_max=5.0)

    pids = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
    until("their ends", lambda: all(map(gone, pids)))
    assert (tried.proof.passed, tried.proof.code) == (False, "worker.hung")
    assert "after 5 seconds" in tried.proof.reason


@pytest.mark.parametrize(
    ("program", "words"),
    [
        ("import os; os.kill(os.getpid(), 9)", "killed by SIGKILL"),
        ("import sys; sys.exit('no more of this')", "ended with status 1: no more of this"),
        ("print('no JSON')", "ended with status 0: it printed nothing"),
        ("print('{\"passed\": 3}')", "ended with status 0"),
    ],
)
def test_a_prover_that_does_not_answer_is_a_refusal_that_says_how_it_ended(program: str, words: str) -> None:
    tried = said(program)

    assert (tried.proof.passed, tried.proof.code) == (False, "worker.crashed")
    assert words in tried.proof.reason


def test_a_prover_that_lacks_what_it_needs_is_told_as_not_installed() -> None:
    with pytest.raises(Absent, match="starlette is not installed"):
        said("import sys; print('Error: starlette is not installed', file=sys.stderr); sys.exit(2)")


def test_a_machine_without_a_prover_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(Absent, match=r"fleetcast\[hub,node\]"):
        prover()


def test_the_prover_beside_our_own_python_comes_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for folder in ("beside", "path"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "fleetcast-node").write_text("#!/bin/sh\n")
        (tmp_path / folder / "fleetcast-node").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "beside" / "python"))

    first = prover()
    (tmp_path / "beside" / "fleetcast-node").unlink()

    assert first == [str(tmp_path / "beside" / "fleetcast-node")]
    assert prover() == [str(tmp_path / "path" / "fleetcast-node")]


# Control groups, in a folder that stands for the kernel's tree: no test may count on the rights to make a real one


def tree(tmp_path: Path, *, handed_on: dict[str, str], own: str) -> tuple[Path, Path]:
    """A tree in which these cgroups hand on these controllers, and the file that says which is ours."""
    root = tmp_path / "cgroup"
    for path, controllers in handed_on.items():
        folder = root / path
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "cgroup.subtree_control").write_text(controllers)
        (folder / "cgroup.procs").write_text("")
    (root / "cgroup.controllers").write_text("cpu memory pids")
    (tmp_path / "own").write_text(f"1:name=systemd:/x\n0::{own}\n")
    return root, tmp_path / "own"


def test_a_cgroup_is_made_in_the_nearest_place_that_hands_on_memory(tmp_path: Path) -> None:
    root, own = tree(tmp_path, handed_on={"": "cpu memory", "user": "memory pids", "user/shell": ""}, own="/user/shell")

    with memory_cgroup(123, tree=root, own=own) as made:
        assert made is not None
        assert made.parent == root / "user"
        assert (made / "memory.max").read_text() == "123"
        assert (made / "memory.swap.max").read_text() == "0"


def test_a_command_inside_has_entered_before_it_is_the_command(tmp_path: Path) -> None:
    command = inside(tmp_path, [sys.executable, "-c", "import os, sys; sys.exit(open(sys.argv[1]).read().strip() != str(os.getpid()))"])

    assert subprocess.run([*command, str(tmp_path / "cgroup.procs")], check=False).returncode == 0


@pytest.mark.parametrize("handed_on", [{"": "", "user": ""}, {"": "cpu", "user": "pids"}])
def test_where_nobody_hands_on_memory_there_is_no_cgroup(tmp_path: Path, handed_on: dict[str, str]) -> None:
    root, own = tree(tmp_path, handed_on=handed_on, own="/user")

    with memory_cgroup(123, tree=root, own=own) as made:
        assert made is None


def test_a_tree_of_the_first_version_or_none_is_left_alone(tmp_path: Path) -> None:
    root, own = tree(tmp_path, handed_on={"": "memory"}, own="/")
    (root / "cgroup.controllers").unlink()

    with memory_cgroup(123, tree=root, own=own) as first, memory_cgroup(123, tree=tmp_path / "no", own=own) as none:
        assert (first, none) == (None, None)
    assert [path.name for path in root.iterdir() if path.is_dir()] == []
