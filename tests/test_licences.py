"""Every package that a lock names has a licence that we may ship or use, and the installed package says the same."""

import importlib.metadata
import json
import re
import tomllib
from pathlib import Path

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from license_expression import get_spdx_licensing

from tools import sbom

CHECKOUT = Path(__file__).parents[1]
REQUIREMENTS = CHECKOUT / "requirements"
TABLE = tomllib.loads((REQUIREMENTS / "licences.toml").read_text())
SHIPPED, ALL = ("node", "hub"), ("node", "hub", "postgres", "test", "dev")
SPDX = get_spdx_licensing()
# What packages of before SPDX expressions say, by the end of their classifier; `BSD License` does not say which.
CLASSIFIERS = {
    "Apache Software License": {"Apache-2.0"},
    "BSD License": {"BSD-2-Clause", "BSD-3-Clause"},
    "ISC License (ISCL)": {"ISC"},
    "MIT License": {"MIT"},
    "Mozilla Public License 2.0 (MPL 2.0)": {"MPL-2.0"},
    "Python Software Foundation License": {"PSF-2.0"},
}


def packages(*locks: str) -> set[str]:
    return {one.name for lock in locks for one in sbom.locked((REQUIREMENTS / f"{lock}.txt").read_text())}


def is_allowed(expression: str) -> bool:
    """Whether one side of every `or` is made of allowed licences only."""
    found = SPDX.parse(expression, validate=True)
    allowed = {SPDX.parse(one).key for one in TABLE["allowed"]}

    def holds(part: object) -> bool:
        if isinstance(part, SPDX.OR):
            return any(holds(one) for one in part.args)
        if isinstance(part, SPDX.AND):
            return all(holds(one) for one in part.args)
        return part.key in allowed  # type: ignore[attr-defined]

    return holds(found)


def claims_another(name: str, expression: str) -> str:
    """What an installed package says of itself, where it is not what the table says; "" where it agrees or says nothing."""
    try:
        metadata = importlib.metadata.metadata(name)
    except importlib.metadata.PackageNotFoundError:
        return ""  # It is for another system or another Python.
    if stated := metadata.get("License-Expression"):
        return "" if SPDX.parse(stated) == SPDX.parse(expression) else stated
    known = {str(one) for one in SPDX.license_keys(SPDX.parse(expression))}
    claims = [line.rpartition(" :: ")[2] for line in metadata.get_all("Classifier") or () if line.startswith("License :: OSI Approved :: ")]
    return ", ".join(one for one in claims if not CLASSIFIERS.get(one, set()) & known)


def test_every_locked_package_has_a_licence_in_the_table() -> None:
    assert packages(*ALL) - TABLE["packages"].keys() == set()
    assert TABLE["packages"].keys() - packages(*ALL) == set()


def test_every_licence_is_allowed_or_a_named_exception_with_a_reason() -> None:
    refused = {name for name, licence in TABLE["packages"].items() if not is_allowed(licence)}

    assert refused == TABLE["exceptions"].keys()
    assert all(len(reason) > 30 for reason in TABLE["exceptions"].values())


def test_no_exception_is_shipped_to_nodes_or_hubs() -> None:
    assert packages(*SHIPPED) & TABLE["exceptions"].keys() == set()


def test_installed_packages_claim_the_licence_of_the_table() -> None:
    assert {name: other for name, licence in TABLE["packages"].items() if (other := claims_another(name, licence))} == {}


@pytest.mark.parametrize("expression", ["GPL-3.0-only", "MIT AND GPL-2.0-or-later", "AGPL-3.0-only OR SSPL-1.0"])
def test_a_licence_that_is_not_in_the_list_is_refused(expression: str) -> None:
    assert not is_allowed(expression)


@pytest.mark.parametrize("side", SHIPPED)
def test_a_bill_of_materials_is_fresh_and_follows_cyclonedx(side: str) -> None:
    text = sbom.path_of(side).read_text()

    assert text == sbom.sbom(side), "run `make sbom`"
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None


@pytest.mark.parametrize("side", SHIPPED)
def test_a_bill_of_materials_has_every_package_of_its_lock_and_how_it_came_in(side: str) -> None:
    bom = json.loads(sbom.path_of(side).read_text())
    lock = (REQUIREMENTS / f"{side}.txt").read_text()
    needs = {one["ref"]: set(one.get("dependsOn", ())) for one in bom["dependencies"]}
    reached, waiting = set(), [bom["metadata"]["component"]["bom-ref"]]
    while waiting:
        one = waiting.pop()
        waiting += needs[one] - reached
        reached |= needs[one]

    assert {(one["name"], one["version"]) for one in bom["components"]} == {(one.name, one.version) for one in sbom.locked(lock)}
    assert {one["content"] for part in bom["components"] for one in part["hashes"]} == set(re.findall(r"sha256:([0-9a-f]{64})", lock))
    assert reached == {one["bom-ref"] for one in bom["components"]}
    assert all(one["licenses"] for one in bom["components"])
