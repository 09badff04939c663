"""From a framework to a release: each page's script is run, what it made is published as the page says, and a node serves it.

The node's answers to the request that the script writes are the framework's own, which the script prints.
"""

import importlib.util
import json
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hub.publish.block_store import BlockStore
from hub.signing.tuf_repository import Repository
from node.workers import worker_handle
from schemas import codec
from schemas.manifest import Manifest
from schemas.names import sha256
from tests.corpus.forked import workers
from tests.corpus.path import opened
from tests.docs.pages import CHECKOUT, FENCE
from tests.docs.test_pages_work import DRILLS
from tests.hub.cli.fleets import Done, Made, make

HOW_TO = CHECKOUT / "docs" / "how-to"
EXAMPLES = CHECKOUT / "examples"


@dataclass(frozen=True)
class Page:
    """A page, the scripts that it shows, what they import that may be missing here, and how near answers have to be."""

    name: str
    scripts: tuple[str, ...]
    needs: tuple[str, ...] = ()
    package: str = ""  # A runtime of the page's own, in a folder of examples/.


PAGES = (
    Page("scikit-learn", ("sklearn_pipeline",)),
    Page("gradient-boosting", ("gradient_boosting",), ("lightgbm", "xgboost", "onnxmltools")),
    Page("pytorch", ("torch_model",), ("torch", "onnxscript")),
    Page("executorch", ("executorch_model",), ("torch", "executorch"), "fleetcast_executorch"),
    Page("keras", ("keras_tflite",), ("tensorflow", "keras")),
    Page("tokenizer", ("tokenizer_beside", "ask_with_tokenizer"), ("tokenizers",)),
)


@pytest.mark.parametrize("page", PAGES, ids=[page.name for page in PAGES])
def test_a_page_shows_its_scripts_as_they_are(page: Page) -> None:
    files = [*page.scripts, *([f"{page.package}/{page.package}"] if page.package else [])]

    assert _blocks(page, "python") == [(EXAMPLES / f"{file}.py").read_text() for file in files]


def test_every_script_and_page_is_tested() -> None:
    scripts = [*(script for page in PAGES for script in page.scripts), "publish"]  # which docs/python.md shows
    assert sorted(path.stem for path in EXAMPLES.glob("*.py")) == sorted(scripts)
    assert sorted(path.stem for path in HOW_TO.glob("*.md")) == sorted(["README", *DRILLS, *(page.name for page in PAGES)])


@pytest.mark.heavy
@pytest.mark.parametrize("page", PAGES, ids=[page.name for page in PAGES])
def test_what_a_page_makes_is_served_as_its_framework_answers(page: Page, tmp_path: Path) -> None:
    missing = [name for name in page.needs if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"{', '.join(missing)} not installed: too large for a test environment")
    names = [name for line in _commands(page) for name in _published(line)]
    fleet = make(tmp_path, *names)
    shutil.copytree(EXAMPLES, tmp_path / "examples", ignore=shutil.ignore_patterns("__pycache__"))
    for text in _blocks(page, "toml"):
        (tmp_path / "release.toml").write_text(text)

    printed = ""
    for line in _commands(page):
        done = _run(line, fleet)
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
        printed = printed or done.stdout

    known = json.loads(printed.splitlines()[-1])  # exporters print before it
    request = (tmp_path / "request.json").read_bytes()
    repository = Repository(fleet.fleet / "trust")
    with _installed(page), workers(), opened(tmp_path / "device", store=BlockStore(fleet.fleet / "blocks")) as way:
        for name in names:
            document = repository.manifest(name, "1.0.0")
            manifest = codec.decode(Manifest, document)
            assert way.serve(manifest, sha256(document)) is None
            answers = json.loads(way.post(name, request, {})[0])["outputs"]
            _check(answers, known.get(name, known))
            if page.name == "tokenizer":
                folder = way.file(manifest, sha256(document), "tokenizer.json").parent
                _asks_by_program(folder, way.url, known)


def _blocks(page: Page, kind: str) -> list[str]:
    return [text for one, text in FENCE.findall((HOW_TO / f"{page.name}.md").read_text()) if one == kind]


@contextmanager
def _installed(page: Page) -> Iterator[None]:
    """The page's own runtime, really installed for a while."""
    if not page.package:
        yield
        return
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    options = ["--no-deps", "--no-index", "--no-build-isolation"]
    subprocess.run([*pip, "install", *options, str(EXAMPLES / page.package)], check=True)
    worker_handle._runtimes.cache_clear()
    try:
        yield
    finally:
        subprocess.run([*pip, "uninstall", "-y", page.package], check=True)
        worker_handle._runtimes.cache_clear()


def _commands(page: Page) -> list[str]:
    """Return the page's commands up to the release; an indented line goes on with the one before."""
    lines = "".join(_blocks(page, "sh")).replace("\\\n", " ").splitlines()
    return [line for line in lines if line.startswith(("python examples/", "fleetcast publish")) and "ask_with" not in line]


def _published(line: str) -> list[str]:
    words = shlex.split(line)
    return [words[words.index("--name") + 1]] if words[:2] == ["fleetcast", "publish"] else []


def _run(line: str, fleet: Made) -> Done:
    program, *words = shlex.split(line)
    if program == "python":
        return subprocess.run(
            [sys.executable, "-W", "ignore", *words], cwd=fleet.folder, capture_output=True, text=True, check=False, timeout=240
        )
    whole = [str(fleet.folder / word) if (fleet.folder / word).is_file() else word for word in words]
    return fleet.run(*whole)


def _check(answers: list[dict[str, Any]], known: dict[str, list[Any]]) -> None:
    found = {one["name"]: one["data"] for one in answers}
    assert found.keys() == known.keys()
    for name, expected in known.items():
        if isinstance(expected[0], str):
            assert found[name] == expected
        else:
            assert np.abs(np.array(found[name]) - np.array(expected)).max() < 1e-5, name


def _asks_by_program(folder: Path, url: str, known: dict[str, list[float]]) -> None:
    texts = ["it works very well", "what a good pump"]
    script = EXAMPLES / "ask_with_tokenizer.py"
    done = subprocess.run([sys.executable, script, folder, url, *texts], capture_output=True, text=True, check=True)
    assert np.abs(np.array(json.loads(done.stdout)) - np.array(known["good"])).max() < 1e-5
