"""Hold one fleet, as a program uses it. Where it is, in a folder or behind an API, is for its backend."""

import functools
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Any, Concatenate, Final, ParamSpec, Self, TypeVar

from fleetcast.fleets.backend import Backend, Progress
from fleetcast.fleets.durations import Duration, seconds_of
from fleetcast.fleets.errors import FleetClosed, explained
from fleetcast.fleets.followed import FollowedRollout
from fleetcast.fleets.keys import Key
from fleetcast.fleets.results import Done, DriftSignal, DriftStream, Event, Node, Plan, PublishedRelease, Release, RolloutStatus
from fleetcast.fleets.tables import Table
from schemas.errors import Code, Refused

P = ParamSpec("P")
R = TypeVar("R")
Path = str | os.PathLike[str]
Names = Sequence[str]
ANSWER_SECONDS: Final = 15.0  # How long a running hub may take to obey.


def _asks(method: "Callable[Concatenate[Fleet, P], R]") -> "Callable[Concatenate[Fleet, P], R]":
    """Check that the fleet is open, and give refusals their mends."""

    @functools.wraps(method)
    def asked(self: "Fleet", /, *given: P.args, **named: P.kwargs) -> R:
        if self._closed:
            raise FleetClosed(self.place)
        with explained():
            return method(self, *given, **named)

    return asked


class Fleet:
    """Hold a fleet: publish releases, plan and roll them out, and ask what its nodes do.

    `fleetcast.open` and `fleetcast.connect` return one. It is a context manager, which closes it. Every method raises `fleetcast.Refused`
    where the fleet refuses, with a code and a mend, and `fleetcast.Unreachable` where a database or hub does not answer.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend, self._closed = backend, False

    @property
    def place(self) -> str:
        """Return where the fleet is: its folder, or the address of its hub."""
        return self._backend.place

    @property
    def look_seconds(self) -> float:
        """Return the pause between two looks at what changes."""
        return self._backend.look_seconds

    @property
    @_asks
    def name(self) -> str:
        """Return the fleet's name."""
        return str(self._backend.summary()["fleet"])

    def __repr__(self) -> str:
        return f"<fleet {self.place}{', closed' if self._closed else ''}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the database or the connections. A fleet may be closed twice."""
        if not self._closed:
            self._closed = True
            self._backend.close()

    # What there is

    @_asks
    def classes(self) -> Mapping[str, int]:
        """Return how many nodes are in each class: serving, moving, waiting, refused, rolled_back, unreachable, expired."""
        return dict(self._backend.summary()["classes"])

    @_asks
    def models(self) -> tuple[str, ...]:
        """Return the names of the models."""
        return tuple(str(row["model"]) for row in self._backend.models())

    @_asks
    def releases(self, model: str | None = None) -> Table[Release]:
        """Return the releases of a model, or of all."""
        models = [model] if model is not None else [str(row["model"]) for row in self._backend.models()]
        return Table(Release, [Release.from_row(row) for one in models for row in self._backend.releases(one)])

    @_asks
    def release(self, name: str) -> Release:
        """Return a release by its name, such as `delay@1.2.0`."""
        model, version = _split(name)
        found = [Release.from_row(row) for row in self._backend.releases(model) if row["version"] == version]
        if not found:
            raise Refused(Code.RELEASE_UNKNOWN, f"there is no release {name}")
        return found[0]

    @_asks
    def nodes(self, where: str | None = None) -> Table[Node]:
        """Return the nodes that a selector matches, such as `site=jfk,tier!=lab`, by name; the key `state` is the class of a node."""
        return Table(Node, [Node.from_row(row) for row in self._backend.nodes(where)])

    @_asks
    def node(self, name: str) -> Node:
        """Return one node."""
        return Node.from_row(self._backend.node(name))

    @_asks
    def drift(self, model: str | None = None, cohort: str | None = None) -> Table[DriftStream]:
        """Return what is tested for drift, lasting alarms first: a row for each release in each cohort."""
        return Table(DriftStream, [DriftStream.from_row(row) for row in self._backend.drift(model, cohort)])

    @_asks
    def drift_signals(self, model: str | None = None, cohort: str | None = None) -> Table[DriftSignal]:
        """Return the signals that have moved: a row for each signal of each stream with an alarm."""
        rows = self._backend.drift(model, cohort)
        return Table(DriftSignal, [DriftSignal.from_rows(row, one) for row in rows for one in row["signals"]])

    @_asks
    def rollouts(self, model: str | None = None) -> Table[RolloutStatus]:
        """Return how far the rollout of each deployment has come."""
        return Table(RolloutStatus, [RolloutStatus.from_row(row) for row in self._backend.rollouts(model)])

    def find_rollout(self, model: str, deployment: str) -> RolloutStatus | None:
        """Return how far the rollout of a deployment has come; None where there is none."""
        return next((one for one in self.rollouts(model) if one.deployment == deployment), None)

    @_asks
    def history(self, after: int = 0) -> Table[Event]:
        """Return the events that are kept, the oldest first: those with an id above `after`."""
        return Table(Event, [Event.from_row(row) for row in self._backend.past_events(after)])

    def events(self, after: int | None = None) -> Iterator[Event]:
        """Yield events as they happen: those with an id above `after`, or those from now on. It does not end by itself."""
        if self._closed:
            raise FleetClosed(self.place)
        with explained():
            for row in self._backend.events(after):
                yield Event.from_row(row)
                if self._closed:
                    raise FleetClosed(self.place)

    # What is done

    @_asks
    def publish(
        self,
        model: object,
        *,
        name: str | None = None,
        version: str | None = None,
        reference: object = None,
        blocks: str | None = None,
        columns: Names | None = None,
        signals: Names | None = None,
        time: str | None = None,
        golden: object = None,
        parent: str | None = None,
        description: str | None = None,
        licence: str | None = None,
        files: Sequence[Path] = (),
        runtime: str | None = None,
        variants: Names | None = None,
        settings: Mapping[str, Any] | None = None,
        breaking: bool = False,
        signer: Key | None = None,
        progress: Progress | None = None,
    ) -> PublishedRelease:
        """Build, sign and store a release; a running hub announces it within a second. The same release twice changes nothing.

        Args:
            model: A file (ONNX, TFLite, GGUF, joblib, or a release file in TOML), an ONNX `ModelProto`, or a fitted estimator of
                scikit-learn, which skl2onnx converts.
            name: Name of the model. A release file may have it.
            version: Version, such as 1.2.0. A release file may have it.
            reference: Reference data: a file, a frame of pandas or polars, a table of pyarrow, or arrays by column. One column per feature.
            blocks: Column that names the day, shift or batch of a row.
            columns: Feature columns in the model's order. The default is all of the reference's.
            signals: Signals to watch. The default is every feature and output.
            time: Column with the time of a row. With it, parts of the week have their own references.
            golden: Golden inputs: an npz file, or its arrays by name, `input.<tensor>` and `output.<tensor>`. The default is generated.
            parent: Version that this one follows. The default is the newest.
            description: Describes the release in a sentence.
            licence: Licence, as an SPDX name.
            files: Files that the model needs beside it.
            runtime: Runtime that loads the model on a device. The default depends on the model.
            variants: Builds in order of preference: fp32, int8, int8-static, int8-weights, fp16, pruned.
            settings: Anything else that a release file states, by its tables: `{"privacy": {"epsilon": 0.5}, "limits": {...}}`.
            breaking: Publish even if programs that use the newest release below this version would not work with it.
            signer: Key of the team. The default is `keys/team.pem` in the fleet's folder; over an API there is none.
            progress: Called with what is done, how many of it are done, and of how many.

        Raises:
            Refused: something is wrong with the model, its reference or the version; nothing was published.
        """
        given: dict[str, Any] = {"name": name, "version": version, "parent": parent, "description": description, "licence": licence}
        given |= {"runtime": runtime, "files": [_absolute(one) for one in _listed("files", files)] or None}
        given["reference"] = {"blocks": blocks, "columns": _names("columns", columns), "signals": _names("signals", signals), "time": time}
        given["variants"] = {"builds": _names("variants", variants)}
        given["golden"] = {"data": golden}
        fields = _over(_given(given), settings or {})
        return self._backend.publish(model, fields, reference, signer=signer, breaking=breaking, progress=progress)

    @_asks
    def plan(
        self,
        release: Release | str,
        *,
        where: str | None = None,
        deployment: str | None = None,
        activate: str | None = None,
        fetch: str | None = None,
        deadline: datetime | Duration | None = None,
        rates_bit_s: Mapping[str, float] | None = None,
    ) -> Plan:
        """Return what a rollout would cost, before it sends anything.

        Args:
            release: A release, or its name: `delay@1.2.0`.
            where: Selector of the nodes.
            deployment: Deployment in which the rollout would begin.
            activate: Times to switch, such as `Mon-Fri 22:00-05:00`, checked against the deadline.
            fetch: Times to fetch, checked against the deadline.
            deadline: A moment, or a duration from now.
            rates_bit_s: Rates of links by class (free, metered, roaming), where the defaults do not fit.
        """
        model, version = _split(release)
        wish: dict[str, Any] = {"model": model, "version": version, "where": where, "deployment": deployment}
        wish |= {"activate": activate, "fetch": fetch}
        wish["deadline"] = _deadline(deadline)
        return Plan.from_row(self._backend.plan(model, _given(wish), dict(rates_bit_s or {})))

    @_asks
    def roll_out(
        self,
        release: Release | str,
        *,
        stages: Sequence[int | str] | str = (100,),
        where: str | None = None,
        deployment: str | None = None,
        approve: Sequence[int | str] = (),
        soak: Duration = 0,
        silent: Duration = 3600,
        receipts_ratio_min: float = 0.95,
        failures_ratio_max: float = 0.05,
        halt_on_drift: bool = True,
        drift_tests_min: int | None = None,
        nodes_min: int | None = None,
        latency_ratio_max: float | None = None,
        shadow_ratio_min: float | None = None,
        retries: int | None = None,
        retry_after: Duration | None = None,
        activate: str | None = None,
        fetch: str | None = None,
        deadline: datetime | Duration | None = None,
        node_bytes_max: int | None = None,
        full_download: bool | None = None,
        priority: int = 5,
        parameters: Mapping[str, float | str | Mapping[str, str]] | None = None,
        allow_empty: bool = False,
        supersede: bool = False,
        breaking: bool = False,
        require_check: bool = False,
        timeout: Duration | None = None,
    ) -> FollowedRollout:
        """Start a rollout, and return it to be followed. Where no hub runs, it waits until one starts.

        Args:
            release: A release, or its name: `delay@1.2.0`.
            stages: Rising percentages, and nodes by selector: `[1, 10, 100]`, or `["canary: site=lab", 10, 100]`.
            where: Only nodes that this selector matches.
            deployment: Deployment to roll it out in; with a selector it is made if there is none.
            approve: Stages that wait for `approve`, by percentage or name.
            soak: Time that a gate must hold before the next stage: seconds, a timedelta, or a text such as `"1h"`.
            silent: Time without a message after which a node does not count.
            receipts_ratio_min: Share of the nodes heard from that must serve the release before the next stage.
            failures_ratio_max: Share of the nodes heard from above which failures halt the rollout.
            halt_on_drift: Halt on an alarm of drift.
            drift_tests_min: Intervals of the release that must be tested for drift before the next stage.
            nodes_min: Nodes of a stage that must serve the release before the next stage.
            latency_ratio_max: Halt where the release takes more than this many times as long as the one before it.
            shadow_ratio_min: Share of nodes on which the comparison in shadow must have passed.
            retries: Number of times that a node which failed tries again by itself.
            retry_after: Pause before failed nodes try again.
            activate: Times when nodes may switch, in their own zone, such as `Mon-Fri 22:00-05:00`.
            fetch: Times when nodes may fetch, in their own zone.
            deadline: Nodes that do not serve it by then are moved no more: a moment, or a duration from now.
            node_bytes_max: Bytes that the rollout may cost one node.
            full_download: Whether a node without a delta's parent may fetch the whole. The default is the node's own policy.
            priority: Priority among a node's transfers, 0 to 9.
            parameters: Values of the release's parameters.
            allow_empty: Start even if the selector matches no known node.
            supersede: Start even if another rollout of the deployment is left half-way.
            breaking: Start even if programs that use what the nodes have now would not work with this release.
            require_check: Refuse a release that has not passed `fleetcast check`.
            timeout: Time after which following it ends with `NotInTime`. The rollout goes on.

        Raises:
            Refused: the hub refuses the rollout.
        """
        model, version = _split(release)
        gate: dict[str, Any] = {
            "receipts_ratio_min": receipts_ratio_min,
            "failures_ratio_max": failures_ratio_max,
            "halt_on_drift": halt_on_drift,
        }
        gate |= {"soak_seconds": seconds_of("soak", soak), "silent_seconds": seconds_of("silent", silent), "nodes_min": nodes_min}
        gate |= {"latency_ratio_max": latency_ratio_max, "shadow_ratio_min": shadow_ratio_min, "retries": retries}
        gate |= {
            "retry_seconds": None if retry_after is None else seconds_of("retry_after", retry_after),
            "drift_tests_min": drift_tests_min,
        }
        wish: dict[str, Any] = {"model": model, "version": version, "where": where, "deployment": deployment, "stages": _stages(stages)}
        wish |= {"approve": list(_listed("approve", approve)), "gate": {name: value for name, value in gate.items() if value is not None}}
        wish |= {"activate": activate, "fetch": fetch, "deadline": _deadline(deadline), "node_bytes_max": node_bytes_max}
        wish |= {"full_download": full_download, "priority": priority, "parameters": dict(parameters) if parameters else None}
        wish |= {"allow_empty": allow_empty, "supersede": supersede, "breaking": breaking, "require_check": require_check}
        within = None if timeout is None else seconds_of("timeout", timeout)
        try:
            done, deployment = self._backend.start({name: value for name, value in wish.items() if value is not None}, ANSWER_SECONDS)
        except KeyboardInterrupt as error:
            error.add_note(
                f"the hub may have been asked to start the rollout of {model}@{version} already: fleet.rollouts({model!r}) shows it"
            )
            raise
        return FollowedRollout(self, model, deployment, version, done=done, timeout_seconds=within)

    @_asks
    def rollout(self, model: str, deployment: str = "default", *, timeout: Duration | None = None) -> FollowedRollout:
        """Return the rollout of a deployment, to be followed.

        Raises:
            Refused: there is no such rollout.
        """
        found = self.find_rollout(model, deployment)
        if found is None:
            names = ", ".join(one.deployment for one in self.rollouts(model)) or "none"
            raise Refused(Code.REQUEST_UNKNOWN, f"there is no deployment {deployment} of {model}; there are {names}")
        within = None if timeout is None else seconds_of("timeout", timeout)
        return FollowedRollout(self, model, deployment, found.version, timeout_seconds=within)

    @_asks
    def halt(self, model: str, deployment: str | None = None) -> Done:
        """Halt a rollout. Nodes that have the release keep it."""
        return self._backend.act("halt", model, deployment, ANSWER_SECONDS)

    @_asks
    def resume(self, model: str, deployment: str | None = None) -> Done:
        """Resume a rollout after a halt."""
        return self._backend.act("resume", model, deployment, ANSWER_SECONDS)

    @_asks
    def back(self, model: str, deployment: str | None = None) -> Done:
        """Return each node of a rollout to its previous release."""
        return self._backend.act("back", model, deployment, ANSWER_SECONDS)

    @_asks
    def approve(self, model: str, deployment: str | None = None) -> Done:
        """Approve the next stage of a rollout. It begins when its turn has come."""
        return self._backend.act("approve", model, deployment, ANSWER_SECONDS)

    @_asks
    def retry(self, model: str, deployment: str | None = None) -> Done:
        """Let the nodes that failed try once more."""
        return self._backend.act("retry", model, deployment, ANSWER_SECONDS)

    @_asks
    def operation(self, number: int) -> Done:
        """Return what became of something that the hub was asked to do.

        Raises:
            Refused: the hub has refused it.
        """
        return self._backend.operation(number)


def _split(release: Release | str) -> tuple[str, str]:
    if isinstance(release, Release):
        return release.model, release.version
    if not isinstance(release, str):
        raise TypeError(f"expected a release or its name, such as 'delay@1.2.0', found {type(release).__name__}")
    model, _, version = release.partition("@")
    if not model or not version:
        raise ValueError(f"expected the name of a release, such as 'delay@1.2.0', found {release[:80]!r}")
    return model, version


def _stages(stages: Sequence[int | str] | str) -> str:
    """Return stages as one text, in which those that are selectors are parted by semicolons."""
    if isinstance(stages, str):
        return stages
    for one in _listed("stages", stages):
        if isinstance(one, bool) or not isinstance(one, int | str):
            raise TypeError(
                f"stages must be whole percents and selectors, such as [1, 10, 100] or ['canary: site=lab', 100], found {one!r}"
            )
    return "; ".join(map(str, stages))


def _absolute(path: Path) -> str:
    return str(pathlib.Path(path).absolute())


def _names(what: str, names: Names | None) -> list[str] | None:
    return None if names is None else [str(one) for one in _listed(what, names)]


def _listed(what: str, values: Sequence[R]) -> Sequence[R]:
    """Return a sequence; a text is one, too, but is never meant as its characters."""
    if isinstance(values, str | bytes | os.PathLike):
        raise TypeError(f"{what} must be a list, such as [{str(values)!r}], found {type(values).__name__}")
    return list(values)


def _deadline(deadline: datetime | Duration | None) -> int | None:
    """Return a moment in seconds since 1970."""
    if deadline is None:
        return None
    if not isinstance(deadline, datetime):
        deadline = datetime.now(UTC) + timedelta(seconds=seconds_of("deadline", deadline))
    if deadline.tzinfo is None:
        raise ValueError(f"deadline {deadline.isoformat()} has no time zone: give tzinfo=datetime.UTC or another")
    return int(deadline.timestamp())


def _given(fields: Mapping[str, Any]) -> dict[str, Any]:
    said = {name: _given(value) if isinstance(value, dict) else value for name, value in fields.items()}
    return {name: value for name, value in said.items() if value is not None and not (isinstance(value, dict) and not value)}


def _over(fields: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Join the tables of a release file; what is given twice is an error.

    Raises:
        TypeError: a field is given by name and in `settings`.
    """
    found = dict(fields)
    for key, value in settings.items():
        there = found.get(key)
        if isinstance(value, Mapping) and isinstance(there, Mapping):
            found[key] = _over(there, value)
        elif there is not None:
            raise TypeError(f"{key} is given twice: by name, and in settings")
        else:
            found[key] = value
    return found
