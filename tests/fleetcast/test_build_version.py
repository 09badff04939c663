"""Two builds of one version are told apart, wherever they were built."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from fleetcast import build_version
from tests import warm

CHECKOUT = Path(__file__).parents[2]


def git(*arguments: str, folder: Path = CHECKOUT) -> str:
    done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"THE BUILD OF A COMMIT IS NOT TESTED: {done.stderr.strip()}")
    return done.stdout.strip()


def test_a_checkout_is_told_by_its_commit() -> None:
    assert build_version._commit_of_checkout(CHECKOUT) == f"g{git('rev-parse', 'HEAD')[:9]}"


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("how", ["clone", "worktree", "detached"])
def test_the_commit_is_read_from_every_kind_of_checkout(tmp_path: Path, how: str, packed: bool) -> None:
    folder, commit = tmp_path / "one", ("-c", "user.name=a", "-c", "user.email=a@b", "commit", "--quiet", "-m", "a")
    folder.mkdir()
    git("init", "--quiet", folder=folder)
    (folder / "pyproject.toml").write_text('[project]\nname = "fleetcast"\n')
    git("add", ".", folder=folder)
    git(*commit, folder=folder)
    if how == "worktree":
        git("worktree", "add", "--quiet", str(tmp_path / "two"), folder=folder)
    if how == "detached":
        git("checkout", "--quiet", "--detach", folder=folder)
    if packed:
        git("pack-refs", "--all", folder=folder)

    found = build_version._commit_of_checkout(tmp_path / "two" if how == "worktree" else folder)

    assert found == f"g{git('rev-parse', 'HEAD', folder=folder)[:9]}"


def test_a_folder_of_another_project_says_nothing_about_us(tmp_path: Path) -> None:
    git("init", "--quiet", folder=tmp_path)
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "plant"\n')

    assert build_version._commit_of_checkout(tmp_path) == ""


def test_files_without_a_commit_are_told_by_their_digest(tmp_path: Path) -> None:
    (tmp_path / "hub").mkdir()
    (tmp_path / "hub" / "a.py").write_text("1\n")
    first = build_version._digest(tmp_path)
    (tmp_path / "hub" / "a.py").write_text("2\n")

    assert first.startswith("f")
    assert build_version._digest(tmp_path) != first


def test_a_wheel_from_a_clean_clone_carries_its_commit(tmp_path: Path) -> None:
    git("clone", "--quiet", "--shared", str(CHECKOUT), str(tmp_path / "clone"))
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check", "--no-deps", "--no-build-isolation"]

    subprocess.run([*command, "--wheel-dir", str(tmp_path), str(tmp_path / "clone")], check=True, timeout=300)

    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        assert wheel.read("fleetcast/_commit.txt").decode().strip() == git("rev-parse", "HEAD")[:9]


@pytest.mark.parametrize("program", ["fleetcast", "fleetcast-node"])
def test_both_commands_show_their_build(program: str) -> None:
    done = warm.run(program, "--version")  # type: ignore[arg-type]

    assert done.stdout == f"{program}, version {build_version.build_version()}\n"
