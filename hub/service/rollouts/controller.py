"""Moves rollouts: does what operators ask, and what receipts and alarms allow. The only part that signs rollouts.

The signed document in the repository is the truth; the row in the store is the working state beside it, and starts afresh where a crash
came between the two.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, replace
from datetime import UTC, datetime
from math import ceil

import structlog
from securesystemslib.signer import Signer

from hub.core.publish.check_rules import unchecked
from hub.core.publish.signature_compatibility import Signature, check_started
from hub.core.rollouts import active_alarms, fleet
from hub.core.rollouts import rollout as core
from hub.core.rollouts.commands import Halt, Resume, Rollback, SetParameters, Start
from hub.core.rollouts.gate_summary import Judged, judged
from hub.core.rollouts.listening import Listened
from hub.core.rollouts.parameters import in_words
from hub.core.rollouts.predecessors import predecessors
from hub.database.drift_queries import Findings
from hub.database.store import CommandRow, RolloutRow, Store
from hub.service.alerts.event_log import Notes
from hub.service.rollouts.listening import ListeningClock
from hub.service.rollouts.release_lookup import signatures
from hub.signing.tuf_repository import Repository
from schemas import codec
from schemas.analytics_messages import Alert
from schemas.errors import Code, Refused
from schemas.manifest import Manifest
from schemas.names import sha256
from schemas.rollout import ReleaseRef, Rollout, bucket, selected

log = structlog.get_logger()

SALTS = 64  # drawn for a new rollout, so that a small fleet finds one that leaves no stage empty
JUDGE_SECONDS = 1.0  # between two looks at the gates
JUDGE_SHARE = 10  # and at least this many times what a look takes: a look at 100,000 nodes must not fill the loop


class Controller:
    """Every model's rollout."""

    def __init__(
        self,
        *,
        repository: Repository,
        store: Store,
        notes: Notes,
        nodes: Mapping[str, fleet.Node],
        signer: Signer,
        random_bytes: Callable[[int], bytes],
        wall: Callable[[], float],
        monotonic: Callable[[], float],
        listening: ListeningClock,
        cohort_nodes_min: int,
        speaks_against: Callable[[Manifest], Sequence[str]] = lambda manifest: (),
    ) -> None:
        self._repository, self._store, self._notes, self._nodes, self._signer = repository, store, notes, nodes, signer
        self._random_bytes, self._wall, self._monotonic = random_bytes, wall, monotonic
        self._listening = listening
        self._speaks_against = speaks_against  # why a release may not be rolled out
        self._cohort_nodes_min = cohort_nodes_min
        self._watched: dict[bytes, bool] = {}  # whether a release watches any signals
        self._findings = Findings(store.database)
        self._judge_at = 0.0
        self._generation = -1
        self._progress = self._restored()

    def tick(self) -> bool:
        """Answer commands, then judge what runs; True when a document was signed."""
        signed = False
        self._forget_removed()
        for command in self._store.open_commands():
            signed |= self._answer(command)
        began = self._monotonic()
        if began >= self._judge_at:
            for model in sorted(self._progress):
                signed |= self._judge(model)
            took = self._monotonic() - began
            self._judge_at = began + max(JUDGE_SECONDS, JUDGE_SHARE * took)
        return signed

    def _forget_removed(self) -> None:
        """Judge no rollout of a model that was removed: it must not be signed again."""
        if self._generation != (generation := self._repository.generation()):
            self._generation, known = generation, set(self._repository.models())
            self._progress = {model: one for model, one in self._progress.items() if model in known}

    # Commands

    def _answer(self, command: CommandRow) -> bool:
        try:
            progress, text = self._obey(command)
            changed = progress != self._progress.get(command.model)
            if changed:
                self._sign(progress, text, actor=command.actor)
        except Refused as refusal:
            log.warning("command.refused", kind=command.kind, model=command.model, code=str(refusal.code), reason=refusal.reason)
            self._store.finish_command(command.id, ok=False, text=refusal.reason, code=str(refusal.code))
            return False
        self._store.finish_command(command.id, ok=True, text=text)
        return changed

    def _obey(self, command: CommandRow) -> tuple[core.Progress, str]:
        model, asked = command.model, command.command
        if isinstance(asked, Refused):
            raise asked
        if isinstance(asked, Start):
            return self._start(model, asked)
        if model not in self._progress:
            raise Refused(Code.ROLLOUT_INVALID, f"there is no rollout of {model}")
        before = self._progress[model]
        match asked:
            case SetParameters():
                return self._set(before, asked)
            case Halt():
                after = core.halt(before)
            case Resume():
                after = core.resume(before, now=int(self._wall()))
            case Rollback():
                after = core.roll_back(before)
        return after, f"rollout of {model} {after.rollout.release.version} {after.reason}"

    def _set(self, before: core.Progress, wish: SetParameters) -> tuple[core.Progress, str]:
        model, version = before.rollout.model, core.in_force_of(before.rollout, wish.version).release.version
        after = core.set_parameters(before, wish, allowed=self._manifest(model, version)[0].parameters or ())
        what = f"parameters of {model} {version}"
        if after == before:
            return before, f"{what} are so already, serial {before.rollout.serial}"
        said = ", ".join(in_words(*one) for one in core.in_force_of(after.rollout, version).parameters.items())
        return after, f"{what} are now {said or 'its own'}, serial {after.rollout.serial}"

    def _manifest(self, model: str, version: str) -> tuple[Manifest, bytes]:
        document = self._repository.manifest(model, version)
        return codec.decode(Manifest, document), sha256(document)

    def _start(self, model: str, wish: Start) -> tuple[core.Progress, str]:
        manifest, digest = self._manifest(model, wish.version)
        if found := self._speaks_against(manifest):
            raise unchecked(f"{model}@{wish.version}", found)
        release = ReleaseRef(wish.version, digest)
        known = self._progress.get(model)
        if not wish.breaking:
            replaced = predecessors(known.rollout if known else None, wish.labels)
            check_started(Signature.of(manifest), signatures(self._repository, model, replaced))
        now = int(self._wall())
        progress = core.begin(
            model,
            wish,
            release,
            before=known.rollout if known else None,
            nodes=self._facts(model, release, begun=now, silent_seconds=1),
            salts=[self._random_bytes(16) for _ in range(SALTS)],
            now=now,
            allowed=manifest.parameters or (),
        )
        if known is None:
            progress = replace(progress, rollout=self._after_removed(progress.rollout))
        stages = ", ".join(f"{percent} %" for percent in wish.stages)
        return progress, f"rollout of {model} {wish.version} has begun, serial {progress.rollout.serial}, stages {stages}"

    def _after_removed(self, rollout: Rollout) -> Rollout:
        """Return a model's first rollout with a serial above those of a removed model of this name: nodes remember them."""
        before = max((row.serial for row in self._store.rollout_rows() if row.model == rollout.model), default=0)
        return rollout.model_copy(update={"serial": before + 1})

    # Gates

    def _judge(self, model: str) -> bool:
        before = self._progress[model]
        rollout, now = before.rollout, int(self._wall())
        running, gate = rollout.state == "running", rollout.gate
        alarm = self._drift(before) if running and gate.halt_on_drift else ""
        nodes = self._facts(model, rollout.release, begun=rollout.started, silent_seconds=gate.silent_seconds)
        judged = self._judged(before) if running and not alarm and (gate.halt_on_drift or gate.drift_tests_min) else None
        facts = core.Facts(nodes, drift_alarm=alarm, drift=judged, listening=self._listening.runs)
        after, actions = core.step(before, facts, now=now, listened=self._listening.seconds)
        signed = False
        for action in actions:
            match action:
                case core.Announce(text):
                    self._sign(after, text)
                    signed = True
                case core.Halted(text):
                    self._notes.alert(Alert(kind="rollout_halted", at=now, model=model, code="halted", text=text))
        if not signed and after != before:
            self._keep(after, "")
        return signed

    def _facts(self, model: str, release: ReleaseRef, *, begun: int, silent_seconds: int) -> list[core.NodeFacts]:
        listened = self._listening.seconds
        return [
            fleet.facts(node, model=model, release=release, begun=begun, listened=listened, silent_seconds=silent_seconds)
            for node in self._nodes.values()
        ]

    def _drift(self, progress: core.Progress) -> str:
        """Return why drift speaks against it: alarms of its own release, since it is judged, in the cohorts of nodes that it addresses."""
        rollout, since = progress.rollout, progress.judged_from
        if not self._findings.alarmed_since(rollout.model, rollout.release.version, since):
            return ""  # nearly always, and quickly found
        cohorts = {
            node.state.cohort
            for node in self._nodes.values()
            if selected(rollout, node.labels) and bucket(rollout.salt, node.name) < rollout.percent
        }
        return active_alarms.speaks_against(
            self._findings.alerts(rollout.model),
            version=rollout.release.version,
            cohorts=None if None in cohorts else {one for one in cohorts if one is not None},
            judged_from=since,
        )

    def _judged(self, progress: core.Progress) -> Judged:
        """Return whether drift could be judged in this stage, and was."""
        rollout = progress.rollout
        model, (version, digest) = rollout.model, rollout.release
        if digest not in self._watched:
            self._watched[digest] = self._manifest(model, version)[0].baseline is not None
        heard = Counter(
            node.state.cohort
            for node in self._nodes.values()
            if selected(rollout, node.labels)
            and bucket(rollout.salt, node.name) < rollout.percent
            and fleet.heard(node, listened=self._listening.seconds, silent_seconds=rollout.gate.silent_seconds)
        )
        tests = self._findings.tested_since(model, version, progress.stage_entered_at)
        gathering = {} if tests else self._findings.tested_since(model, version, progress.stage_entered_at, gathering=True)
        heard_of = self._findings.heard(model, release=digest, since=progress.stage_entered_at)
        return judged(
            version,
            watched=self._watched[digest],
            nodes=heard,
            tests=tests,
            nodes_min=self._cohort_nodes_min,
            gathering=sum(gathering.values()),
            newest={cohort: one for (_, cohort), one in heard_of.items()},
        )

    # Durability

    def _sign(self, progress: core.Progress, text: str, *, actor: str | None = None) -> None:
        now = datetime.fromtimestamp(self._wall(), UTC)
        rollout = progress.rollout
        self._repository.set_rollout(rollout.model, codec.encode(rollout), rollouts=self._signer, now=now)
        log.info("rollout.signed", model=rollout.model, serial=rollout.serial, state=rollout.state, percent=rollout.percent)
        self._keep(progress, text, actor=actor)

    def _keep(self, progress: core.Progress, text: str, *, actor: str | None = None) -> None:
        rollout, tally = progress.rollout, progress.tally
        self._store.put_rollout_row(
            RolloutRow(
                model=rollout.model,
                serial=rollout.serial,
                document=codec.encode(rollout),
                stage_entered_at=progress.stage_entered_at,
                held_since=None if progress.held_since is None else ceil(progress.held_since),  # up: nothing is gained
                judged_from=progress.judged_from,
                reason=progress.reason,
                addressed=tally.addressed,
                heard=tally.heard,
                serving=tally.serving,
                failed=tally.failed,
                silent=tally.silent,
                updated_at=int(self._wall()),
            ),
            happened=text,
            actor=actor,
        )
        self._progress[rollout.model] = progress

    def _restored(self) -> dict[str, core.Progress]:
        rows = {row.model: row for row in self._store.rollout_rows()}
        now, found = int(self._wall()), {}
        for model in self._repository.models():
            document = self._repository.rollout(model)
            if document is None:
                continue
            rollout = codec.decode(Rollout, document)
            progress = core.Progress(rollout, stage_entered_at=now, judged_from=rollout.started)
            row = rows.get(model)
            if row is not None and row.serial == rollout.serial:
                tally = core.Tally(row.addressed, row.heard, row.serving, row.failed, row.silent)
                # Later than the clock is what a crash kept of the gate and not of it, and what an earlier hub took from the wall.
                held_since = None if row.held_since is None else Listened(min(float(row.held_since), self._listening.seconds))
                progress = replace(
                    progress,
                    stage_entered_at=row.stage_entered_at,
                    judged_from=row.judged_from,
                    held_since=held_since,
                    reason=row.reason,
                    tally=tally,
                )
                log.info("rollout.restored", model=model, serial=rollout.serial, state=rollout.state, tally=astuple(tally))
            found[model] = progress
        return found
