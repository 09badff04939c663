"""Compose files and Containerfiles, as far as they can be checked without a container engine: what they copy, start and set is ours."""

import re
import tomllib
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from hub.cli import hub as hub_command
from hub.cli.commands import command as fleetcast
from hub.core.roles.shards import findings, parse
from hub.settings import ROLES, HubSettings, load
from node.settings import NodeSettings
from schemas.topics import access_list

CHECKOUT = Path(__file__).parents[1]
DEPLOY = CHECKOUT / "deploy"
ROLES_FILE = DEPLOY / "compose.roles.yaml"
FILES = sorted(DEPLOY.glob("compose*.yaml"))
PREFIXES: dict[str, tuple[str, type[Any]]] = {
    "FLEETCAST_NODE_": ("deploy/Containerfile.node", NodeSettings),
    "FLEETCAST_": ("deploy/Containerfile.hub", HubSettings),
}


def services(path: Path) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = yaml.safe_load(path.read_text())["services"]
    return found


def parsed(arguments: list[str]) -> dict[str, Any]:
    """What our command line makes of these words; nothing is run."""
    context, command = fleetcast.make_context("fleetcast", list(arguments), resilient_parsing=False), fleetcast
    while isinstance(command, click.Group):
        name, found, rest = command.resolve_command(context, [*context._protected_args, *context.args])
        assert found is not None
        command, context = found, found.make_context(name, rest, parent=context)  # type: ignore[assignment]
    return context.params


@pytest.fixture
def hubs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, HubSettings]:
    """The settings of each process of the hub, as its command line, its environment and `fleet.toml` give them."""
    found = {}
    (tmp_path / "fleet.toml").write_text('fleet = "main"\n')
    for name, service in services(ROLES_FILE).items():
        if service.get("command", [""])[0] != "hub":
            continue
        params = parsed([*service["command"]])
        with monkeypatch.context() as environment:
            for variable, value in service["environment"].items():
                environment.setenv(variable, value)
            load(tmp_path)
            chosen = {key: params[key] for key in ("broker_url", "wait_broker", "roles", "shard", "name")}
            found[name] = hub_command._settings(tmp_path, chosen.pop("broker_url"), **chosen)
    return found


def test_processes_of_a_hub_together_have_every_role_and_every_node(hubs: dict[str, HubSettings]) -> None:
    roles = [role for one in hubs.values() for role in one.roles]
    ingesting = [(one.process_name, parse(one.shard)) for one in hubs.values() if "ingest" in one.roles]

    assert set(roles) == set(ROLES)
    assert roles.count("controller") == 1
    assert (len(ingesting), findings(ingesting)) == (2, [])
    assert len({one.process_name for one in hubs.values()}) == len(hubs)
    assert {name for name, one in hubs.items() if "passphrase" in services(ROLES_FILE)[name]["secrets"]} == {
        name for name, one in hubs.items() if "controller" in one.roles
    }


def test_what_prepares_the_processes_names_each_of_them(hubs: dict[str, HubSettings], tmp_path: Path) -> None:
    for name in yaml.safe_load(ROLES_FILE.read_text())["secrets"]:
        (tmp_path / name).touch()
    text = re.sub(r" \\\n# +", " ", ROLES_FILE.read_text()).replace("/run/secrets", str(tmp_path))
    commands = [parsed(line.split()) for line in re.findall(r"^#   hub (.*)$", text, flags=re.MULTILINE)]
    processes = {one.client_id for one in hubs.values()} - {"hub"}
    issued = {one["name"] for one in commands if set(one) >= {"name", "out"}}
    let_in = next(one["processes"] for one in commands if "processes" in one)
    (made,) = [one for one in commands if "models" in one]

    assert issued == set(let_in) == processes
    assert all(f"user {name}\n" in access_list("main", processes=let_in) for name in processes)
    for settings in hubs.values():
        assert (made["broker_url"], made["database_url"]) == (settings.broker_url, settings.database_url)
        assert made["database_password_file"].name == Path(settings.database_password_file).name


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_setting_secret_file_and_volume_of_a_service_is_known(path: Path) -> None:
    whole = yaml.safe_load(path.read_text())
    for name, service in whole["services"].items():
        for variable in service.get("environment", {}):
            prefix = next((one for one in PREFIXES if variable.startswith(one)), None)
            if prefix is not None:
                file, settings = PREFIXES[prefix]
                assert variable.removeprefix(prefix).lower() in settings.model_fields, f"{name}: {variable}"
                assert service["build"]["dockerfile"] == file
        assert set(service.get("secrets", [])) <= set(whole.get("secrets", {})), name
        assert set(service.get("depends_on", {})) <= set(whole["services"]), name
        for source in (str(one).split(":")[0] for one in service.get("volumes", [])):
            is_ours = source.startswith("../")
            assert (path.parent / source).resolve().exists() if is_ours else source.startswith("./") or source in whole["volumes"], source
        if "build" in service:
            lock = service["build"].get("args", {}).get("LOCK", "hub")
            assert (DEPLOY / service["build"]["context"]).resolve() == CHECKOUT
            assert (CHECKOUT / "requirements" / f"{lock}.txt").exists()


@pytest.mark.parametrize("name", ["hub", "node"])
def test_an_image_has_all_that_the_wheel_is_made_of(name: str) -> None:
    text = (DEPLOY / f"Containerfile.{name}").read_text()
    copied = {one for line in re.findall(r"^COPY (?!--)(.*) \S+$", text, flags=re.MULTILINE) for one in line.split()}
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())
    packages = {one.rstrip("*") for one in project["tool"]["setuptools"]["packages"]["find"]["include"]}

    assert packages <= copied
    assert {"pyproject.toml", "setup.py", "MANIFEST.in", "deploy/sbom", project["project"]["readme"], "LICENSE"} <= copied
    assert all((CHECKOUT / one.replace("${LOCK}", "hub")).exists() for one in copied)
