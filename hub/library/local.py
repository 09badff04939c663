"""Fulfil what a program asks of a fleet in a folder of this machine, in process: by the functions that the command line calls.

Releases are signed here. What moves nodes is queued for the hub, as commands are; a hub that does not run obeys when it starts.
"""

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from fleetcast.fleets.backend import Action, Progress
from fleetcast.fleets.fleet import Fleet
from fleetcast.fleets.keys import Key
from fleetcast.fleets.results import Done, LeftOut, PublishedRelease, Row
from hub.core.rollouts import commands
from hub.operations import nodes_shown, opening, planning, publishing, rollouts
from hub.operations.conversion import converted
from hub.operations.drift_rows import drift_of
from hub.operations.events import event_row
from hub.operations.opened_fleet import OpenedFleet, check_model
from hub.operations.release_inputs import fleet_archs
from hub.operations.release_rows import model_rows, release_rows
from hub.operations.rollout_rows import Rollouts
from hub.operations.snapshot import Snapshots
from hub.operations.summary import summary_of
from hub.settings import SETTINGS_NAME
from hub.signing.keys import load_signer
from schemas.errors import Code, Refused

if TYPE_CHECKING:
    from hub.publish.builder import BuiltRelease
    from hub.publish.release_file import ReleaseFile

LOOK_SECONDS: Final = 0.3
PAGE: Final = 1000
NO_HUB: Final = "no hub runs here now: it waits until one starts"
ACTOR_VARIABLE: Final = "FLEETCAST_ACTOR"
COMMANDS: Final[Mapping[Action, type[commands.OfDeployment]]] = {
    "halt": commands.Halt,
    "resume": commands.Resume,
    "back": commands.Rollback,
    "approve": commands.Approve,
    "retry": commands.Retry,
}


def open_fleet(directory: str, *, actor: str | None = None) -> Fleet:
    """Return the fleet in a folder.

    Raises:
        Refused: there is no fleet in it, or its database is of another version.
        Unreachable: the database does not answer.
        ValueError: no actor can have this name.
    """
    name = actor if actor is not None else os.environ.get(ACTOR_VARIABLE) or opening.system_user()
    if not opening.is_actor(name):
        raise ValueError(f"actor must be 1 to {opening.ACTOR_CHARACTERS_MAX} printable characters, found {name[:80]!r}")
    folder = Path(directory).absolute()
    if not (folder / SETTINGS_NAME).exists():
        raise Refused(
            Code.SETTINGS_INVALID, f"there is no fleet in {folder}: `fleetcast init` makes one, and `fleetcast quickstart` one to try"
        )
    return Fleet(LocalBackend(opening.open_fleet(folder, name)))


class LocalBackend:
    """Ask an opened fleet."""

    look_seconds = LOOK_SECONDS

    def __init__(self, fleet: OpenedFleet) -> None:
        self._fleet = fleet

    @property
    def place(self) -> str:
        """Return the folder."""
        return str(self._fleet.directory)

    def close(self) -> None:
        """Release the database."""
        self._fleet.store.close()

    def summary(self) -> Row:
        """Return the fleet's name, its nodes by class, and how many streams drift."""
        return summary_of(self._fleet, Snapshots().get(self._fleet), runs=opening.hub_runs(self._fleet.directory))

    def models(self) -> Sequence[Row]:
        """Return a row for each model."""
        return model_rows(self._fleet)

    def releases(self, model: str) -> Sequence[Row]:
        """Return a row for each release of a model."""
        check_model(self._fleet.repository, model)
        return release_rows(self._fleet, model)

    def nodes(self, where: str | None) -> Sequence[Row]:
        """Return the nodes that a selector matches, by name."""
        seen = Snapshots().get(self._fleet)
        names = [name for _, name in seen.nodes(where, "node")[0]]
        return [row for at in range(0, len(names), PAGE) for row in nodes_shown.nodes_shown(self._fleet, seen, names[at : at + PAGE])]

    def node(self, name: str) -> Row:
        """Return one node."""
        return nodes_shown.node_shown(self._fleet, Snapshots().get(self._fleet), name)

    def drift(self, model: str | None, cohort: str | None) -> Sequence[Row]:
        """Return a row for each stream that is tested."""
        if model is not None:
            check_model(self._fleet.repository, model)
        return drift_of(self._fleet, model, cohort)

    def rollouts(self, model: str | None) -> Sequence[Row]:
        """Return a row for each deployment."""
        if model is not None:
            check_model(self._fleet.repository, model)
        return Rollouts.read(self._fleet, model).rows()

    def plan(self, model: str, wish: Mapping[str, Any], rates_bit_s: Mapping[str, float]) -> Row:
        """Return what a rollout would cost."""
        return planning.plan(self._fleet, model, rollouts.start_of(wish), rates_bit_s={**planning.RATES_BIT_S, **rates_bit_s})[0]

    def start(self, wish: Mapping[str, Any], wait_seconds: float) -> tuple[Done, str]:
        """Queue a rollout for the hub, once it was checked."""
        model = wish["model"]
        check_model(self._fleet.repository, model)
        prepared = rollouts.start(self._fleet, model, rollouts.start_of(wish), require_check=bool(wish.get("require_check")))
        done = self._asked(model, prepared.command, wait_seconds)
        return replace(done, warnings=prepared.warnings, notes=(*prepared.notes, *done.notes)), prepared.deployment

    def act(self, action: Action, model: str, deployment: str | None, wait_seconds: float) -> Done:
        """Queue a command about a rollout."""
        wish = commands.read_as(COMMANDS[action], json.dumps({"deployment": deployment} if deployment is not None else {}))
        prepared = rollouts.change(self._fleet, model, wish)
        return self._asked(model, prepared.command, wait_seconds)

    def operation(self, number: int) -> Done:
        """Return what became of a command."""
        row = self._fleet.store.command(number)
        if row is None:
            raise Refused(Code.REQUEST_UNKNOWN, f"there is no operation {number}")
        if row.state == "refused":
            raise Refused(Code(row.code), row.text)
        return Done(row.id, row.state, row.text)

    def _asked(self, model: str, command: commands.Command, wait_seconds: float) -> Done:
        """Queue a command, and wait a while for a hub that runs."""
        number = self._fleet.store.add_command(model, command)
        until = time.monotonic() + wait_seconds
        done = self.operation(number)
        while done.state == "open" and opening.hub_runs(self._fleet.directory) and time.monotonic() < until:
            time.sleep(LOOK_SECONDS)
            done = self.operation(number)
        if done.state == "open" and not opening.hub_runs(self._fleet.directory):
            return replace(done, notes=(NO_HUB,))
        return done

    def events(self, after: int | None) -> Iterator[Row]:
        """Yield events as they happen."""
        at = self._fleet.store.last_event_id() if after is None else after
        while True:
            for row in self.past_events(at):
                at = row["id"]
                yield row
            time.sleep(LOOK_SECONDS)

    def past_events(self, after: int) -> Iterator[Row]:
        """Yield the events that there are, the oldest first."""
        at = after
        while page := self._fleet.store.events(at, PAGE):
            at = page[-1].id
            yield from map(event_row, page)

    def publish(
        self, model: object, fields: Mapping[str, Any], reference: object, *, signer: Key | None, breaking: bool, progress: Progress | None
    ) -> PublishedRelease:
        """Build, sign and store a release."""
        from hub.library.materials import laid_out  # noqa: PLC0415  # with numpy
        from hub.library.signing import opened_key, secret_of  # noqa: PLC0415

        fleet, warnings = self._fleet, list[str]()
        with ExitStack() as stack:
            release, steps = release_of(stack, stack.enter_context(laid_out(model, fields, reference)), lambda: fleet_archs(fleet.store))
            key = signer if signer is not None else Key(fleet.directory / "keys" / "team.pem")
            team = opened_key(key, load_signer)
            targets = publishing.delegator(fleet, release.name, secret_of(key))
            built = publishing.publish(
                fleet,
                release,
                team=team,
                targets=targets,
                breaking=breaking,
                tell=progress or silent,
                warn=warnings.append,
            )
        return published(built, steps, warnings, announced=opening.hub_runs(fleet.directory))


def release_of(stack: ExitStack, materials: Any, archs: Callable[[], frozenset[str]]) -> "tuple[ReleaseFile, tuple[str, ...]]":
    """Return what is to be published as a release file has it, and what was done to make ONNX of the model.

    Raises:
        Refused: the release file, a field of it, or the model is wrong.
        TypeError: name or version is missing.
    """
    from hub.publish.release_file import read_release  # noqa: PLC0415
    from hub.publish.sklearn_model import compared  # noqa: PLC0415

    fields = materials.fields
    if materials.release_file is not None:
        release = read_release(materials.release_file, fields, archs=archs)
    else:
        for name in ("name", "version"):
            if name not in fields:
                raise TypeError(f"publish() needs {name}= unless the model is a release file")
        release = read_release(None, fields, archs=archs)
    release, steps = stack.enter_context(converted(release, _unsaid))
    if materials.converted is not None:
        steps = materials.converted.steps
        if release.reference is not None:
            from hub.publish.reference_data import read_reference  # noqa: PLC0415

            truth = release.accuracy.truth if release.accuracy else None
            passed_over = [name for name in (release.reference.blocks, release.reference.time, truth) if name]
            data = read_reference(release.reference.data)
            steps = (*steps, compared(materials.converted, data, named=release.reference.columns, passed_over=passed_over))
    return release, steps


def published(built: "BuiltRelease", steps: Sequence[str], warnings: Sequence[str], *, announced: bool) -> PublishedRelease:
    """Return what a program sees of a release that was built and signed."""
    manifest, first = built.manifest, built.variants[0]
    uncalibrated = [f"nodes get no baselines of their own: {built.not_calibrated}"] if built.not_calibrated else []
    return PublishedRelease(
        model=manifest.model,
        version=manifest.version,
        digest=built.digest.hex(),
        size_bytes=first.file_bytes,
        variants=tuple(one.name for one in built.variants),
        description=manifest.description,
        watched_signals=len(manifest.baseline.signals) if manifest.baseline else 0,
        removable=True,
        fetch_bytes=first.wire_bytes,
        stored_bytes=built.stored_bytes,
        watched=tuple(signal.name for signal in manifest.baseline.signals) if manifest.baseline else (),
        unwatched=tuple(one.name for one in built.unwatched),
        left_out=tuple(LeftOut(one.name, str(one.code), one.reason) for one in built.left_out),
        has_golden_inputs=any(manifest.golden_of(variant) is not None for variant in manifest.variants),
        announced=announced,
        conversion=tuple(steps),
        warnings=(*built.preview.warnings, *uncalibrated, *warnings),
    )


def silent(_what: str, _done: int, _total: int) -> None:
    """Report nothing."""


def _unsaid(_sentence: str) -> None:
    """Say nothing: what was done is in the result."""
