"""Write the bills of materials that the wheel carries, in CycloneDX: of a node and of a hub, as their locks pin them (`make sbom`).

The lock says names, versions, markers, hashes and who needs what; `requirements/licences.toml` says the licences. Neither the network nor
what is installed is asked, so that the same locks give the same bytes.
"""

import argparse
import re
import sys
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple
from uuid import NAMESPACE_URL, uuid5

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import HashAlgorithm, HashType, Property
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL

CHECKOUT = Path(__file__).resolve().parents[1]
REQUIREMENTS = CHECKOUT / "requirements"
LICENCES = REQUIREMENTS / "licences.toml"
SIDES = ("node", "hub")
_ENTRY = re.compile(r"^(?P<name>[A-Za-z0-9_.-]+)(?:\[[^]]*\])?==(?P<version>\S+)(?: ; (?P<marker>.*?))?(?: \\)?$")


class Locked(NamedTuple):
    """Describe one package of a lock."""

    name: str
    version: str
    marker: str
    hashes: tuple[str, ...]
    needed_by: tuple[str, ...]


def locked(lock: str) -> Iterator[Locked]:
    """Yield the packages of a lock's text; ours is among `needed_by` as `fleetcast`."""
    for entry in re.split(r"\n(?=[A-Za-z0-9])", lock.strip()):
        first, *rest = entry.splitlines()
        found = _ENTRY.match(first)
        if found is None:
            raise ValueError(f"this is no package of a lock: {first!r}")
        hashes = tuple(sorted(re.findall(r"--hash=sha256:([0-9a-f]{64})", entry)))
        needed_by = tuple(sorted({normal(one) for one in _via(rest) if one}))
        yield Locked(normal(found["name"]), found["version"], found["marker"] or "", hashes, needed_by)


def _via(lines: list[str]) -> Iterator[str]:
    for line in lines:
        text = line.strip()
        if text.startswith("#"):
            yield text.lstrip("#").strip().removeprefix("via").strip().split(" ")[0].split("[")[0]


def normal(name: str) -> str:
    """Return a package's name as the index has it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def licences() -> Mapping[str, str]:
    """Return the SPDX expression of each package."""
    found: dict[str, str] = tomllib.loads(LICENCES.read_text())["packages"]
    return found


def sbom(side: str) -> str:
    """Return the bill of materials of a side, as CycloneDX 1.6 in JSON.

    Raises:
        KeyError: `requirements/licences.toml` does not have a package of the lock.
    """
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    packages, known, factory = list(locked((REQUIREMENTS / f"{side}.txt").read_text())), licences(), LicenseFactory()
    ours = _component("fleetcast", project["version"], ComponentType.APPLICATION)
    ours.licenses.add(factory.make_from_string(project["license"]["text"]))
    ours.description = project["description"]
    ours.properties.add(Property(name="fleetcast:extra", value=side))
    parts: dict[str, list[Component]] = {"fleetcast": [ours]}
    for one in packages:
        part = _component(one.name, one.version, ComponentType.LIBRARY)
        if one.name not in known:
            raise KeyError(f"{one.name} is in requirements/{side}.txt and has no licence in {LICENCES.relative_to(CHECKOUT)}")
        part.licenses.add(factory.make_from_string(known[one.name]))
        part.hashes.update(HashType(alg=HashAlgorithm.SHA_256, content=digest) for digest in one.hashes)
        if one.marker:
            part.properties.add(Property(name="fleetcast:marker", value=one.marker))
        parts.setdefault(one.name, []).append(part)
    bom = Bom(components=[part for name, found in parts.items() if name != "fleetcast" for part in found])
    bom.metadata.component, bom.metadata.timestamp = ours, None  # type: ignore[assignment]  # the same locks give the same bytes
    bom.serial_number = uuid5(NAMESPACE_URL, "\n".join([f"fleetcast[{side}]=={project['version']}", *map(str, packages)]))
    for name, found in parts.items():
        needs = [part for one in packages if name in one.needed_by for part in parts[one.name] if part.version == one.version]
        for part in found:
            bom.register_dependency(part, needs)
    return str(JsonV1Dot6(bom).output_as_string(indent=2)) + "\n"


def _component(name: str, version: str, kind: ComponentType) -> Component:
    url = PackageURL("pypi", None, name, version)
    return Component(type=kind, name=name, version=version, purl=url, bom_ref=f"{name}=={version}")


def path_of(side: str) -> Path:
    """Return the file of a side, which setup.py puts into the wheel."""
    return CHECKOUT / "deploy" / "sbom" / f"fleetcast-{side}.cdx.json"


def main(arguments: list[str] | None = None) -> int:
    """Write both files, or say whether they are fresh."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; end with 1 if a file is not what the locks make it")
    check, stale = parser.parse_args(arguments).check, list[Path]()
    for side in SIDES:
        path, text = path_of(side), sbom(side)
        if check and (not path.exists() or path.read_text() != text):
            stale.append(path)
        elif not check:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    for path in stale:
        print(f"{path.relative_to(CHECKOUT)} is not what the locks make it: run `make sbom`", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
