"""docs/python.md, the notebook and the workflow in examples/, run against a hub whose node serves what it is given."""

import ast
import doctest
import json
import os
import re
import secrets
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import pytest
import yaml
from sklearn.linear_model import Ridge

from hub.operations import api_tokens
from hub.publish import example_release
from tests.docs.pages import BIN, CHECKOUT, FENCE
from tests.hub.library.scenes import Running, obedient, opened

PAGE = CHECKOUT / "docs" / "python.md"
EXAMPLES = CHECKOUT / "examples"
FEATURES = ["dep_delay", "hour", "distance", "wind_speed", "visibility"]


@pytest.fixture
def folder(hub: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A publisher's folder: training data, the team's key, its passphrase, and the fleet."""
    table = example_release.reference()
    late = np.asarray(table["dep_delay"]) + 0.2 * np.asarray(table["hour"])
    table.to_pandas().assign(arr_delay=late.astype(np.float32)).to_parquet(tmp_path / "flights.parquet")
    (tmp_path / "plant").symlink_to(hub.made.fleet)
    (tmp_path / "team.pem").write_bytes((hub.made.fleet / "keys" / "team.pem").read_bytes())
    shutil.copy(hub.made.secret, tmp_path / "passphrase")
    monkeypatch.chdir(tmp_path)
    with obedient(hub):
        yield tmp_path


def token_of(hub: Running, name: str) -> str:
    fleet = opened(hub.made)
    try:
        return api_tokens.make(fleet, name=f"{name}-{secrets.token_hex(4)}", role="admin", days=1)[1]
    finally:
        fleet.store.close()


def test_the_page_says_what_its_examples_do(hub: Running, folder: Path) -> None:
    names = {"HUB": hub.ready["web_url"], "TOKEN": token_of(hub, "page")}
    examples = doctest.DocTestParser().get_doctest(PAGE.read_text(), names, PAGE.name, str(PAGE), 0)
    said: list[str] = []
    failures, tried = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(examples, out=said.append)
    assert failures == 0, "".join(said)
    assert tried >= 20


@pytest.mark.slow  # each command is a process
def test_the_commands_beside_the_examples_do_the_same(hub: Running, folder: Path) -> None:
    test_the_page_says_what_its_examples_do(hub, folder)
    frame = pd.read_parquet("flights.parquet")
    joblib.dump(Ridge().fit(frame[FEATURES], frame["arr_delay"]), "model.joblib")
    commands = [line for kind, text in FENCE.findall(PAGE.read_text()) if kind == "sh" for line in text.replace("\\\n", "").splitlines()]
    for command in commands:
        first, _, otherwise = command.partition("||")
        program, *words = shlex.split(first, comments=True)
        done = hub.made.run(*words)
        assert program == "fleetcast"
        assert done.returncode in ({0, 11} if otherwise else {0}), f"{command}\n{done.stdout}{done.stderr}"
    assert len(commands) >= 6


def test_the_page_names_every_error_and_every_verb_that_there_is() -> None:
    import fleetcast
    from fleetcast.fleets import errors

    text = PAGE.read_text()
    kinds = [name for name, one in vars(errors).items() if isinstance(one, type) and one.__module__ == errors.__name__]
    assert not [name for name in kinds if f"`{name}`" not in text]
    verbs = [name for name, one in vars(fleetcast.Fleet).items() if callable(one) and not name.startswith("_")]
    unnamed = [name for name in verbs if f"fleet.{name}(" not in text]
    assert unnamed == ["close", "classes", "releases", "release", "node", "find_rollout", "operation"]


def cells() -> list[str]:
    return ["".join(one["source"]) for one in json.loads((EXAMPLES / "fleet.ipynb").read_text())["cells"] if one["cell_type"] == "code"]


def shown(source: str, names: dict[str, Any]) -> object:
    """What a notebook shows of a cell: the value of its last expression."""
    tree = ast.parse(source)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "cell", "exec"), names)  # noqa: S102  # as a notebook does
    return eval(compile(ast.Expression(last.value), "cell", "eval"), names) if isinstance(last, ast.Expr) else None  # noqa: S307


@pytest.mark.slow  # as the workflow, beside the page's own examples
def test_the_notebook_runs_from_its_first_cell_to_its_last(hub: Running, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLANT", "plant")
    monkeypatch.setenv("FLIGHTS", "flights.parquet")
    monkeypatch.setenv("PASSPHRASE", "passphrase")
    monkeypatch.setenv("VERSION", "5.0.0")
    names: dict[str, Any] = {}
    printed = StringIO()

    with redirect_stdout(printed):
        values = [shown(source.replace('name="delay"', 'name="arrivals"'), names) for source in cells()]

    assert "arrivals@5.0.0 done at 100 %" in printed.getvalue()
    rich = [value for value in values if hasattr(value, "_repr_html_")]
    assert len(rich) >= 4
    assert all("<table" in value._repr_html_() for value in rich)


def test_the_notebook_is_kept_without_what_it_printed() -> None:
    notebook = json.loads((EXAMPLES / "fleet.ipynb").read_text())

    assert notebook["nbformat"] == 4
    assert not [one for one in notebook["cells"] if one.get("outputs") or one.get("execution_count")]


@pytest.mark.slow  # a program that imports all anew
def test_each_step_of_the_workflow_runs_and_its_release_is_rolled_out(hub: Running, folder: Path) -> None:
    job = yaml.safe_load((EXAMPLES / "publish.yml").read_text())["jobs"]["publish"]
    values = {
        "vars.FLEETCAST_HUB": hub.ready["web_url"],
        "secrets.FLEETCAST_TOKEN": token_of(hub, "workflow"),
        "secrets.FLEETCAST_TEAM_KEY": (folder / "team.pem").read_text(),
        "secrets.FLEETCAST_TEAM_PASSPHRASE": (folder / "passphrase").read_text().strip(),
    }
    shutil.copytree(EXAMPLES, folder / "examples", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "runner").mkdir()
    exported = folder / "exported"
    exported.touch()
    environment = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", "RUNNER_TEMP": str(folder / "runner"), "GITHUB_ENV": str(exported)}
    environment |= {"GITHUB_REF_NAME": "v6.0.0", **filled(job["env"], values)}

    printed = ""
    for step in job["steps"]:
        if "run" not in step or "pip install" in step["run"]:
            continue
        script = step["run"].replace("--roll-out", "--roll-out --name arrivals")  # Its columns are those of this model.
        mine = {
            **environment,
            **filled(step.get("env", {}), values),
            **dict(line.split("=", 1) for line in exported.read_text().splitlines()),
        }
        done = subprocess.run(
            ["bash", "-eo", "pipefail", "-c", script], cwd=folder, env=mine, capture_output=True, text=True, timeout=200, check=False
        )
        assert done.returncode == 0, f"{step['name']}\n{done.stdout}{done.stderr}"
        printed += done.stdout

    assert "published arrivals@6.0.0" in printed
    assert printed.splitlines()[-1].startswith("arrivals@6.0.0 done at 100 %")
    assert list((folder / "runner").iterdir()) == []


def filled(names: dict[str, str], values: dict[str, str]) -> dict[str, str]:
    """The values of an `env`, with what GitHub puts in; what is unknown there is an error."""
    return {name: re.sub(r"\$\{\{ *([\w.]+) *\}\}", lambda found: values[found[1]], text) for name, text in names.items()}


def test_the_workflow_installs_extras_that_there_are() -> None:
    import tomllib

    extras = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    (named,) = re.findall(r"pip install --quiet '\.\[([\w,]+)\]'", (EXAMPLES / "publish.yml").read_text())

    assert set(named.split(",")) <= set(extras)


def test_actionlint_finds_no_fault_in_the_workflow() -> None:
    program = shutil.which("actionlint")
    if program is None:
        pytest.skip("actionlint is not installed")  # go install github.com/rhysd/actionlint/cmd/actionlint@latest

    done = subprocess.run([program, str(EXAMPLES / "publish.yml")], capture_output=True, text=True, check=False, timeout=60)

    assert (done.returncode, done.stdout) == (0, "")
