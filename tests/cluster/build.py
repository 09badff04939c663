"""Build the broker of the cluster once, into a cache outside of the repository: `python -m tests.cluster.build`, which prints its path.

It is rmqttd as crates.io has it, without the plugins that nobody here uses: the bridges to Kafka, Pulsar, NATS and others are two thirds of
its 700 packages. `FLEETCAST_RMQTTD` names a program that is there already, such as one by `cargo install rmqttd`.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

VERSION = "0.24.0"  # The first versions that share retained messages in a cluster without Redis are 0.22 and later.
PLUGINS = ("rmqtt-acl", "rmqtt-retainer", "rmqtt-cluster-raft", "rmqtt-shared-subscription")
DEPENDENCIES_KEPT = ("rmqtt", "rmqtt-conf", "rmqtt-net")
OPT_LEVEL = os.environ.get("RMQTT_OPT_LEVEL", "1")
CACHE = Path(os.environ.get("FLEETCAST_BROKERS_CACHE", "~/.cache/fleetcast-brokers")).expanduser()


def program() -> Path | None:
    """The broker's program, where it was built or is named; None where it is not."""
    named = os.environ.get("FLEETCAST_RMQTTD")
    path = Path(named) if named else CACHE / f"rmqttd-{VERSION}" / "rmqttd"
    return path if path.is_file() else None


def build() -> Path:
    """Build it, unless it is there; the sources, too, come from crates.io, by cargo."""
    if found := program():
        return found
    for command, package in (("cargo", "Rust 1.94 or newer (rustup.rs)"), ("protoc", "Debian's package protobuf-compiler")):
        if shutil.which(command) is None:
            sys.exit(f"{command} is not installed, which rmqttd is built with: install {package}")
    folder = CACHE / f"rmqttd-{VERSION}"
    source = folder / "source"
    folder.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(source, ignore_errors=True)
    shutil.copytree(_downloaded(), source)
    manifest = source / "Cargo.toml"
    manifest.write_text(without_plugins(manifest.read_text()))
    cargo = {"CARGO_PROFILE_RELEASE_LTO": "off", "CARGO_PROFILE_RELEASE_CODEGEN_UNITS": "16", "CARGO_PROFILE_RELEASE_OPT_LEVEL": OPT_LEVEL}
    target = CACHE / "target"
    subprocess.run(
        ["cargo", "build", "--quiet", "--release", "--target-dir", str(target)], cwd=source, env={**os.environ, **cargo}, check=True
    )
    shutil.copy2(target / "release" / "rmqttd", folder / "rmqttd.partial")
    (folder / "rmqttd.partial").rename(folder / "rmqttd")
    shutil.rmtree(target, ignore_errors=True)
    return folder / "rmqttd"


def without_plugins(manifest: str) -> str:
    """The package's manifest with the plugins that we use, and without the others."""
    kept: list[str] = []
    for section in re.split(r"(?m)^(?=\[)", manifest):
        name = section.partition("\n")[0]
        found = re.fullmatch(r"\[(?:dependencies|package\.metadata\.plugins)\.(rmqtt[a-z0-9-]*)\]", name)
        if found and found[1] not in (*PLUGINS, *DEPENDENCIES_KEPT):
            continue
        if name == "[dependencies.rmqtt-retainer]":
            section = f'[dependencies.rmqtt-retainer]\nversion = "{VERSION}"\nfeatures = ["ram"]\n\n'  # noqa: PLW2901
        kept.append(section)
    return "".join(kept)


def _downloaded() -> Path:
    """The package's folder in cargo's registry, where `cargo info` brings it."""
    subprocess.run(["cargo", "info", "--quiet", f"rmqttd@{VERSION}"], check=True, stdout=subprocess.DEVNULL)
    home = Path(os.environ.get("CARGO_HOME", "~/.cargo")).expanduser()
    found = sorted((home / "registry" / "src").glob(f"*/rmqttd-{VERSION}"))
    if not found:
        sys.exit(f"cargo has not brought rmqttd {VERSION} to {home}/registry/src")
    return found[-1]


if __name__ == "__main__":
    print(build())
