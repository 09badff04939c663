"""Complete what a fleet has: models, releases, nodes, labels, cohorts, deployments and signals, read from its folder."""

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.shell_completion import CompletionItem

if TYPE_CHECKING:
    from hub.signing.tuf_repository import Repository

SHOWN_MAX = 200  # A shell shows no more in one screen.
_LABELLED_MAX = 2000  # Nodes whose labels are read: a shell waits for it.


class FleetName(click.types.StringParamType):
    """Take any text, and complete it to what the fleet has."""

    def __init__(self, of: Callable[[Path, click.Context, str], Iterable[str]]) -> None:
        self._of = of

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Return what begins with what was typed; nothing where there is no fleet to read."""
        try:
            found = sorted({one for one in self._of(_folder(ctx), ctx, incomplete) if one.startswith(incomplete)})
        except Exception:  # a shell that waits for a word is no place for an error: the command itself says what is wrong
            return []
        return [CompletionItem(one) for one in found[:SHOWN_MAX]]


def complete_names(command: click.Command) -> click.Command:
    """Have every parameter of a command, and of those below it, that names a thing of the fleet be completed."""
    for parameter in command.params:
        if type(parameter.type) is type(click.STRING) and (kind := _kind(parameter)) is not None:
            parameter.type = FleetName(kind)
    for below in command.commands.values() if isinstance(command, click.Group) else ():
        complete_names(below)
    return command


def _kind(parameter: click.Parameter) -> Callable[[Path, click.Context, str], Iterable[str]] | None:
    name, metavar = parameter.name or "", parameter.metavar or ""
    if "MODEL@VERSION" in metavar:
        return _releases
    if metavar == "MODEL[@VERSION]":
        return lambda *said: [*_models(*said), *_releases(*said)]
    if metavar == "NODE" or name == "node":
        return _nodes
    if "KEY=VALUE" in metavar:
        return lambda *said: [*_labels(*said), *(_nodes(*said) if "NODE" in metavar else [])]
    by_name = {
        "model": _models,
        "models": _models,
        "release": _versions,
        "where": _selectors,
        "cohort": _cohorts,
        "deployment": _deployments,
        "signals": _signals,
        "names": _signals if "--signal" in parameter.opts else None,
    }
    return by_name.get(name)


def _folder(ctx: click.Context) -> Path:
    at: click.Context | None = ctx
    while at is not None:
        if (found := at.params.get("directory")) is not None:
            return Path(found)
        at = at.parent
    return Path(os.environ.get("FLEETCAST_DIR", "."))


def _models(folder: Path, ctx: click.Context, incomplete: str) -> Iterable[str]:
    return _repository(folder).models()


def _releases(folder: Path, ctx: click.Context, incomplete: str) -> Iterable[str]:
    repository = _repository(folder)
    return [f"{model}@{version}" for model in repository.models() for version in repository.releases(model)]


def _versions(folder: Path, ctx: click.Context, incomplete: str) -> Iterable[str]:
    repository, model = _repository(folder), ctx.params.get("model")
    return [version for one in repository.models() if model in (None, one) for version in repository.releases(one)]


def _nodes(folder: Path, ctx: click.Context, incomplete: str) -> Iterable[str]:
    from hub.cli.options import node_page  # noqa: PLC0415  # --help does without a database

    before = incomplete[:-1] + chr(ord(incomplete[-1]) - 1) + "\U0010ffff" if incomplete else ""
    return [row.node for row in node_page(folder, after=before, limit=SHOWN_MAX).nodes]


def _known_labels(folder: Path) -> dict[str, set[str]]:
    from hub.cli.options import node_page  # noqa: PLC0415
    from schemas import codec  # noqa: PLC0415
    from schemas.state import State  # noqa: PLC0415

    found: dict[str, set[str]] = {}
    for row in node_page(folder, limit=_LABELLED_MAX).nodes:
        profile = codec.decode(State, row.state).profile
        for key, value in (profile.labels if profile is not None else {}).items():
            found.setdefault(key, set()).add(value)
    return found


def _labels(folder: Path, ctx: click.Context, incomplete: str) -> Iterable[str]:
    known = _known_labels(folder)
    if "=" in incomplete:
        return [f"{key}={value}" for key, values in known.items() for value in values]
    return [f"{key}=" for key in known]


def _selectors(folder: Path, ctx: click.Context, incomplete: str) -> Iterable[str]:
    """Complete the requirement behind the last comma, and keep what stands before it."""
    done, comma, last = incomplete.rpartition(",")
    return [f"{done}{comma}{one}" for one in _labels(folder, ctx, last)]


def _cohorts(folder: Path, ctx: click.Context, incomplete: str) -> Iterable[str]:
    from hub.cli.options import node_page  # noqa: PLC0415

    return {row.cohort for row in node_page(folder, limit=_LABELLED_MAX).nodes if row.cohort}


def _deployments(folder: Path, ctx: click.Context, incomplete: str) -> Iterable[str]:
    from hub.operations.release_rows import present_deployments  # noqa: PLC0415

    repository, release = _repository(folder), ctx.params.get("model") or ctx.params.get("release") or ""
    model = str(release).partition("@")[0]
    return [one.name for name in repository.models() if model in ("", name) for one in present_deployments(repository, name)]


def _signals(folder: Path, ctx: click.Context, incomplete: str) -> Iterable[str]:
    from schemas import codec  # noqa: PLC0415
    from schemas.manifest import Manifest  # noqa: PLC0415

    repository, wanted = _repository(folder), str(ctx.params.get("model") or "")
    model, _, version = wanted.partition("@")
    names: set[str] = set()
    for one in repository.models() if not model else [model]:
        for released in repository.releases(one)[-1:] if not version else [version]:
            manifest = codec.decode(Manifest, repository.manifest(one, released))
            names |= {signal.name for signal in (manifest.baseline.signals if manifest.baseline else ())}
    return names


def _repository(folder: Path) -> "Repository":
    from hub.signing.tuf_repository import Repository  # noqa: PLC0415  # TUF takes a while to import

    return Repository(folder / "trust")
