"""Moves rollouts: does what operators ask, and what receipts and alarms allow. The only part that signs deployments.

The signed statement in the repository is the truth; a row in the store is the working state of one deployment beside it, and starts afresh
where a crash came between the two. Beside each statement stands what earlier nodes read (hub/core/rollouts/earlier_nodes.py).
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from math import ceil

import structlog
from securesystemslib.signer import Signer

from fleetcast.counted import counted
from hub.core.publish.check_rules import unchecked
from hub.core.publish.metadata_expiry import is_ageing, life
from hub.core.publish.signature_compatibility import Signature, check_started
from hub.core.rollouts import active_alarms, deployments, earlier_nodes, fleet, gates, going_back
from hub.core.rollouts import rollout as core
from hub.core.rollouts.changes import change_of
from hub.core.rollouts.commands import (
    Approve,
    Halt,
    OfDeployment,
    RemoveDeployment,
    Resume,
    Retry,
    Rollback,
    SetDeployment,
    SetParameters,
    Start,
    stale,
)
from hub.core.rollouts.deployments import Model
from hub.core.rollouts.gate_summary import Judged, judged
from hub.core.rollouts.listening import Listened
from hub.core.rollouts.moves import movements, unmoved
from hub.core.rollouts.parameters import in_words
from hub.core.rollouts.predecessors import predecessors
from hub.core.rollouts.stages import words
from hub.core.rollouts.tally import Tally
from hub.core.rollouts.terms import check_shadow, written
from hub.database.drift_queries import Findings
from hub.database.store import CommandRow, RolloutRow, Store
from hub.service.alerts.event_log import Notes
from hub.service.rollouts.listening import ListeningClock
from hub.service.rollouts.release_lookup import check_movements, signatures
from hub.service.rollouts.rollout_traces import RolloutTraces
from hub.signing import deployment_statements
from hub.signing.tuf_repository import Repository
from schemas import codec
from schemas.analytics_messages import Alert
from schemas.deployments import Deployment, Deployments, deciding, is_reached
from schemas.errors import Code, Refused
from schemas.manifest import Manifest
from schemas.names import sha256
from schemas.rollout import ReleaseRef, Rollout
from schemas.selectors import NodeFacts, text_of

log = structlog.get_logger()

JUDGE_SECONDS = 1.0  # between two looks at the gates
JUDGE_SHARE = 10  # and at least this many times what a look takes: a look at 100,000 nodes must not fill the loop
TURN_SECONDS = 0.2  # A turn's share of such a look: with a thousand models it takes several turns, and commands are answered in between.
COUNT_SECONDS = 0.1  # A turn's share for counting the nodes of rollouts that do not run.
COUNT_SHARE = 200  # Between two such turns, this many times what one takes.


class Controller:
    """Move every model's rollouts."""

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
        traces: RolloutTraces | None = None,
    ) -> None:
        self._repository, self._store, self._notes, self._nodes, self._signer = repository, store, notes, nodes, signer
        self._traces = traces or RolloutTraces()
        self._random_bytes, self._wall, self._monotonic = random_bytes, wall, monotonic
        self._listening = listening
        self._speaks_against = speaks_against  # why a release may not be rolled out
        self._cohort_nodes_min = cohort_nodes_min
        self._watched: dict[bytes, bool] = {}  # whether a release watches any signals
        self._findings = Findings(store.database)
        self._judge_at = self._count_at = self._look_began = self._look_took = 0.0
        self._to_look: list[str] = []  # Models that are still to be looked at in this round, the first one last.
        self._to_count: list[str] = []  # Models whose rollouts move no more, and that are still to be counted in this round.
        self._generation = -1
        self._key = signer.public_key.keyid
        rows: dict[str, list[RolloutRow]] = {}
        for row in store.rollout_rows():
            rows.setdefault(row.model, []).append(row)
        self._models = {model: self._restored(model, rows.get(model, ())) for model in repository.models()}
        self._uninformed = {name for name, model in self._models.items() if model.expires}  # Earlier nodes may read old news.
        self._take_over()

    @property
    def models(self) -> Iterable[Model]:
        """Return every model with its rollouts, as signed."""
        return self._models.values()

    def tick(self) -> bool:
        """Answer commands, then judge what runs; True when a statement was signed."""
        signed = self._look_at_key()
        self._forget_removed()
        for command in self._store.open_commands():
            signed |= self._answer(command)
        signed |= self._look()
        self._count_again(answered=signed)
        return signed

    def _look(self) -> bool:
        """Do a turn's share of a look at every model: what earlier nodes read, what expires, what the gates allow. True when it signed."""
        began, signed = self._monotonic(), False
        if not self._to_look:
            if began < self._judge_at:
                return False
            self._to_look, self._look_began, self._look_took = sorted(self._models, reverse=True), began, 0.0
        while self._to_look:
            if (name := self._to_look.pop()) in self._models:
                if name in self._uninformed:
                    self._inform_earlier_nodes(self._models[name])
                signed |= self._renew(name)
                if _runs(self._models[name]):
                    signed |= self._judge(name)
            if self._monotonic() - began >= TURN_SECONDS:
                break
        self._look_took += self._monotonic() - began
        if not self._to_look:
            self._judge_at = self._look_began + max(JUDGE_SECONDS, JUDGE_SHARE * self._look_took)
        return signed

    def _count_again(self, *, answered: bool) -> None:
        """Count the nodes of rollouts that move no more, a model at a time: nothing is decided by it, and each look is at every node."""
        began = self._monotonic()
        if answered or not self._to_count:
            self._to_count = [name for name in sorted(self._models, reverse=True) if not _runs(self._models[name])]
        if not self._to_count or (began < self._count_at and not answered):
            return
        while self._to_count:
            name = self._to_count.pop()
            if name in self._models:
                self._judge(name)
            if self._monotonic() - began >= COUNT_SECONDS:
                break
        self._count_at = began + max(JUDGE_SECONDS, COUNT_SHARE * (self._monotonic() - began))

    def needed_from(self) -> dict[str, int]:
        """Return since when the history of a model is needed, for models of which a rollout is not done."""
        found: dict[str, int] = {}
        for name, model in self._models.items():
            for one in model.rollouts:
                if one.deployment.state != "done":
                    found[name] = min(found.get(name, one.judged_from), one.judged_from, one.tries_from, one.stage_entered_at)
        return found

    def _look_at_key(self) -> bool:
        """Sign everything again as soon as another key signs rollouts: nodes that know the new roles believe the old one no more."""
        if self._key == (key := self._signer.public_key.keyid):
            return False
        self._key = key
        self._models = {name: replace(model, expires=0) for name, model in self._models.items()}
        self._take_over()
        return True

    def _forget_removed(self) -> None:
        """Judge no rollout of a model that was removed: it must not be signed again."""
        if self._generation != (generation := self._repository.generation()):
            self._generation, known = generation, set(self._repository.models())
            self._models = {name: one for name, one in self._models.items() if name in known}
            self._uninformed &= known

    # Commands

    def _answer(self, command: CommandRow) -> bool:
        try:
            before = self._models.get(command.model) or Model(command.model, serial=self._serial_of_removed(command.model))
            self._check_serial(before, command)
            after, text = self._obey(before, command)
            changed = after != before
            if changed:
                self._sign(before, after, text, actor=command.actor, why=_why(command))
        except Refused as refusal:
            log.warning("command.refused", kind=command.kind, model=command.model, code=str(refusal.code), reason=refusal.reason)
            self._store.finish_command(command.id, ok=False, text=refusal.reason, code=str(refusal.code))
            return False
        self._store.finish_command(command.id, ok=True, text=text)
        return changed

    def _check_serial(self, model: Model, command: CommandRow) -> None:
        """Check that a model's deployments are still those that the asker has seen.

        Raises:
            Refused: REQUEST_STALE, naming both.
        """
        if isinstance(command.command, Refused) or command.command.if_serial in {None, model.serial}:
            return
        raise stale(f"deployments of {model.name}", seen=command.command.if_serial, now=model.serial)

    def _serial_of_removed(self, model: str) -> int:
        """Return the highest serial that a removed model of this name has had: nodes remember it."""
        return max((row.serial for row in self._store.rollout_rows() if row.model == model), default=0)

    def _obey(self, model: Model, command: CommandRow) -> tuple[Model, str]:
        match command.command:
            case Refused() as refusal:
                raise refusal
            case Start() as wish:
                return self._start(model, wish, command.actor or "")
            case SetDeployment() as wish:
                return self._set_deployment(model, wish, command.actor or core.OPERATOR)
            case RemoveDeployment() as wish:
                after = deployments.removed(model, wish, nodes=self._facts())
                self._check_movements(model, after, breaking=wish.breaking)
                return after, f"deployment {wish.name} of {model.name} is removed"
            case asked:
                return self._change(model, asked, command.actor or core.OPERATOR)

    def _change(self, model: Model, asked: OfDeployment, actor: str) -> tuple[Model, str]:
        before = deployments.chosen(model, asked.deployment, to_go_back=isinstance(asked, Rollback))
        now = int(self._wall())
        match asked:
            case SetParameters():
                return self._set(model, before, asked)
            case Halt():
                after = core.halt(before, actor=actor)
            case Resume():
                after = core.resume(before, now=now, actor=actor)
            case Rollback():
                after = core.roll_back(before, where=self._where_back(model, before), actor=actor)
                self._check_kept(model.name, before.deployment.fallback)
            case Approve():
                after = core.approve(before, actor=actor)
            case Retry():
                after = core.retry(before, now=now, actor=actor)
        return model.with_rollout(after), f"{after.title} {after.reason}"

    def _where_back(self, model: Model, progress: core.Progress) -> str:
        """Return in words where nodes go that are taken back.

        Raises:
            Refused: there is nothing to go back to.
        """
        going_back.check_possible(model, progress, self._nodes.values())
        mine = self._decided(model)[progress.name]
        versions = self._repository.versions_by_digest(model.name)
        return going_back.in_words(progress.deployment, going_back.destinations(progress.deployment, mine, model.name), versions.get)

    def _check_kept(self, model: str, release: ReleaseRef | None) -> None:
        """Check that a release to go back to was not removed.

        Raises:
            Refused: RELEASE_UNKNOWN.
        """
        if release is not None and release.version not in self._repository.releases(model):
            what = f"{model}@{release.version}, to which nodes would go back, was removed"
            raise Refused(Code.RELEASE_UNKNOWN, f"{what}: start a rollout of a release that they are to serve instead")

    def _set(self, model: Model, before: core.Progress, wish: SetParameters) -> tuple[Model, str]:
        version = core.in_force_of(before, wish.version).release.version
        after = core.set_parameters(before, wish, allowed=self._manifest(model.name, version)[0].parameters or ())
        what = f"parameters of {model.name} {version}"
        if after == before:
            return model, f"{what} are so already, serial {model.serial}"
        said = ", ".join(in_words(*one) for one in core.in_force_of(after, version).parameters.items())
        return model.with_rollout(after), f"{what} are now {said or 'its own'}, serial {model.serial + 1}"

    def _manifest(self, model: str, version: str) -> tuple[Manifest, bytes]:
        document = self._repository.manifest(model, version)
        return codec.decode(Manifest, document), sha256(document)

    def _checked(self, model: str, version: str) -> tuple[Manifest, ReleaseRef]:
        """Return a release that may be rolled out.

        Raises:
            Refused: there is none, or its checks speak against it.
        """
        manifest, digest = self._manifest(model, version)
        if found := self._speaks_against(manifest):
            raise unchecked(f"{model}@{version}", found)
        return manifest, ReleaseRef(version, digest)

    def _start(self, model: Model, wish: Start, actor: str) -> tuple[Model, str]:
        manifest, release = self._checked(model.name, wish.version)
        check_shadow(wish.gate, manifest)
        if not wish.breaking:
            place = deployments.place_of(model, wish, self._facts())
            check_started(Signature.of(manifest), signatures(self._repository, model.name, predecessors(place)))
        progress = deployments.begun(
            model,
            wish,
            release,
            nodes=self._facts(),
            rollout=self._random_bytes(16),
            now=int(self._wall()),
            allowed=manifest.parameters or (),
        )
        after = model.with_rollout(replace(progress, actor=actor))
        self._check_movements(model, after, breaking=wish.breaking)
        said = f"{progress.title} has begun, serial {model.serial + 1}, stages {words(progress.deployment.stages)}"
        return after, f"{said}, until {written(wish.deadline)}" if wish.deadline is not None else said

    def _set_deployment(self, model: Model, wish: SetDeployment, actor: str) -> tuple[Model, str]:
        release = self._checked(model.name, wish.release)[1] if wish.release is not None else None
        progress = deployments.pinned(
            model, wish, release, nodes=self._facts(), rollout=self._random_bytes(16), now=int(self._wall()), actor=actor
        )
        after = model.with_rollout(progress)
        self._check_movements(model, after, breaking=wish.breaking)
        one = progress.deployment
        nodes = sum(decides is not None and decides.name == one.name for decides in self._decisions(after))
        whom = f"{text_of(one.selector) or 'every node'}, priority {one.priority}"
        return after, f"deployment {one.name} of {model.name} ({whom}) decides for {counted(nodes, 'node')}: {one.release.version}"

    def _check_movements(self, before: Model, after: Model, *, breaking: bool) -> None:
        """Check that no node gets a release that its programs cannot use, unless the operator says so.

        Raises:
            Refused: RELEASE_BREAKING.
        """
        if breaking:
            return
        serving = {name: one for name, node in self._nodes.items() if (one := fleet.serves(node, after.name)) is not None}
        found = movements(before.deployments, after.deployments, unmoved(self._facts()), serving=serving)
        check_movements(self._repository, found, model=after.name)

    # Gates

    def _facts(self) -> list[NodeFacts]:
        return [node.facts for node in self._nodes.values()]

    def _decisions(self, model: Model) -> list[Deployment | None]:
        order = model.deployments
        return [deciding(order, node.facts) for node in self._nodes.values()]

    def _decided(self, model: Model) -> dict[str, list[fleet.Node]]:
        """Return the nodes for which each deployment decides, by its name."""
        found: dict[str, list[fleet.Node]] = {one.name: [] for one in model.rollouts}
        for node, decides in zip(self._nodes.values(), self._decisions(model), strict=True):
            if decides is not None:
                found[decides.name].append(node)
        return found

    def _judge(self, name: str) -> bool:
        before = self._models[name]
        if not before.rollouts:
            return False
        by_name, now = self._decided(before), int(self._wall())
        after, texts, alerts = before, list[str](), list[Alert]()
        for progress in before.rollouts:
            moved, actions = self._step(progress, by_name[progress.name], now)
            after = after.with_rollout(moved)
            for action in actions:
                match action:
                    case core.Announce(text):
                        texts.append(text)
                    case core.Halted(text):
                        alerts.append(
                            Alert(
                                kind="rollout_halted",
                                at=now,
                                model=name,
                                code="halted",
                                text=text,
                                actor=progress.actor or None,
                                rollout=progress.deployment.rollout.hex(),
                            )
                        )
        if texts:
            self._sign(before, after, *texts)
        elif after != before:
            self._keep(before, after)
        for alert in alerts:
            self._notes.alert(alert)
        return bool(texts)

    def _step(self, progress: core.Progress, nodes: Sequence[fleet.Node], now: int) -> tuple[core.Progress, tuple[core.Action, ...]]:
        running, gate, listened = progress.deployment.state == "running", progress.gate, self._listening.seconds
        alarm = self._drift(progress, nodes) if running and gate.halt_on_drift else ""
        drift = self._judged(progress, nodes) if running and not alarm and (gate.halt_on_drift or gate.drift_tests_min) else None
        since, tries = progress.judged_from, progress.tries_from
        reports = [
            fleet.report(node, progress.deployment, model=progress.model, listened=listened, failed_from=since, tries_from=tries)
            for node in nodes
        ]
        facts = gates.Facts(reports, drift_alarm=alarm, drift=drift, listening=self._listening.runs, deaf=self._listening.deaf)
        return core.step(progress, facts, now=now, listened=listened)

    def _drift(self, progress: core.Progress, nodes: Sequence[fleet.Node]) -> str:
        """Return why drift speaks against it: alarms of its own release, in the cohorts of nodes that it has reached."""
        version, since = progress.deployment.release.version, progress.judged_from
        if not self._findings.alarmed_since(progress.model, version, since):
            return ""  # nearly always, and quickly found
        cohorts = {node.state.cohort for node in nodes if is_reached(progress.deployment, node.facts)}
        return active_alarms.speaks_against(
            self._findings.alerts(progress.model),
            version=version,
            cohorts=None if None in cohorts else {one for one in cohorts if one is not None},
            judged_from=since,
        )

    def _judged(self, progress: core.Progress, nodes: Sequence[fleet.Node]) -> Judged:
        """Return whether drift could be judged in this stage, and was."""
        model, (version, digest) = progress.model, progress.deployment.release
        if digest not in self._watched:
            self._watched[digest] = self._manifest(model, version)[0].baseline is not None
        heard = Counter(
            node.state.cohort
            for node in nodes
            if is_reached(progress.deployment, node.facts)
            and fleet.heard(node, listened=self._listening.seconds, silent_seconds=progress.gate.silent_seconds)
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

    def _sign(self, before: Model, after: Model, *texts: str, actor: str | None = None, why: str = "") -> None:
        """Sign a model's deployments, then what earlier nodes read, then keep the working state."""
        now = datetime.fromtimestamp(self._wall(), UTC)
        statement = after.statement(expires=int((now + life("rollouts")).timestamp()))
        self._repository.set_deployments(after.name, codec.encode(statement), rollouts=self._signer)
        log.info("deployments.signed", model=after.name, serial=statement.serial, deployments=len(statement.deployments))
        self._traces.signed(before, after, began=now.timestamp())
        signed = replace(after, serial=statement.serial, expires=statement.expires)
        self._models[after.name] = signed  # Whatever fails from here on, no other statement gets this serial.
        self._inform_earlier_nodes(signed)
        self._keep(before, signed, *texts, actor=actor, why=why)

    def _inform_earlier_nodes(self, model: Model) -> None:
        """Sign the rollout that earlier nodes read, where it says something else than before: each is sent to every node.

        What fails is tried again at the next look: the deployments are signed all the same.
        """
        self._uninformed.add(model.name)
        try:
            self._sign_for_earlier_nodes(model)
        except Refused as refusal:
            log.warning("rollout.not_signed", model=model.name, code=str(refusal.code), reason=refusal.reason)
        else:
            self._uninformed.discard(model.name)

    def _sign_for_earlier_nodes(self, model: Model) -> None:
        statement = Deployments(model=model.name, serial=model.serial, expires=model.expires, deployments=model.deployments)
        wanted = earlier_nodes.as_rollout(statement, self._facts())
        document = self._repository.rollout(model.name)
        present = codec.decode(Rollout, document) if document is not None else None
        if wanted is None and present is not None:  # The last deployment was taken away.
            wanted = present.model_copy(update={"serial": model.serial, "state": "halted"})
        if wanted is None or (present is not None and wanted.model_copy(update={"serial": present.serial}) == present):
            return
        now = datetime.fromtimestamp(self._wall(), UTC)
        self._repository.set_rollout(model.name, codec.encode(wanted), rollouts=self._signer, now=now)
        log.info("rollout.signed_for_earlier_nodes", model=wanted.model, serial=wanted.serial, state=wanted.state, percent=wanted.percent)

    def _keep(self, before: Model, after: Model, *texts: str, actor: str | None = None, why: str = "") -> None:
        happened = list(texts)
        for progress in after.rollouts:
            known = before.get(progress.name)
            if progress != known:
                is_new = known is None or progress.deployment != known.deployment
                text = happened.pop(0) if happened and is_new else ""
                differs = change_of(known.deployment if known is not None else None, progress.deployment)
                change = {**differs, "reason": progress.reason or None}
                self._store.put_rollout_row(self._row(after, progress), happened=text, actor=actor, change=change, why=why)
        for progress in before.rollouts:
            if after.get(progress.name) is None:
                text, change = happened.pop(0) if happened else "", change_of(progress.deployment, None)
                self._store.drop_rollout_row(after.name, progress.name, text, actor=actor, change=change, why=why)
        self._models[after.name] = after

    def _row(self, model: Model, progress: core.Progress) -> RolloutRow:
        tally = progress.tally
        return RolloutRow(
            model=model.name,
            deployment=progress.name,
            serial=model.serial,
            document=deployments.alone(model.name, model.serial, progress.deployment),
            stage_entered_at=progress.stage_entered_at,
            held_since=None if progress.held_since is None else ceil(progress.held_since),  # up: nothing is gained
            judged_from=progress.judged_from,
            reason=progress.reason,
            gates=gates.as_json(progress.verdicts),
            addressed=tally.addressed,
            heard=tally.heard,
            serving=tally.serving,
            failed=tally.failed,
            silent=tally.silent,
            updated_at=int(self._wall()),
            actor=progress.actor or None,
            tries_from=progress.tries_from,
        )

    def _renew(self, name: str) -> bool:
        """Sign a model's deployments again before they expire, or where a key signed them that may no longer."""
        model, now = self._models[name], datetime.fromtimestamp(self._wall(), UTC)
        if not model.serial:
            return False
        if not is_ageing("rollouts", datetime.fromtimestamp(model.expires, UTC), now):
            return False
        self._sign(model, model)
        return True

    def _take_over(self) -> None:
        """Sign what an earlier hub signed, or another key, as deployments before anything is announced; what fails is tried again later."""
        for name in sorted(self._models):
            try:
                self._renew(name)
            except Refused as refusal:
                log.warning("deployments.not_signed", model=name, code=str(refusal.code), reason=refusal.reason)

    def _restored(self, name: str, kept: Sequence[RolloutRow]) -> Model:
        """Return a model as it is signed, with its working state."""
        found = deployment_statements.read(self._repository, name)
        if found is None:
            return Model(name)
        statement = found.deployments
        rows = {row.deployment: row for row in kept}
        by_us = found.key == self._signer.public_key.keyid
        model = Model(name, serial=statement.serial, expires=statement.expires if by_us else 0)
        return replace(model, rollouts=tuple(self._progress(model, one, rows.get(one.name)) for one in statement.deployments))

    def _progress(self, model: Model, deployment: Deployment, row: RolloutRow | None) -> core.Progress:
        begun = deployment.started
        progress = core.Progress(model.name, deployment, stage_entered_at=int(self._wall()), judged_from=begun, tries_from=begun)
        if row is None or not deployments.is_of(row.document, deployment):
            return progress
        # Later than the clock is what a crash kept of the gate and not of it, and what an earlier hub took from the wall.
        held_since = None if row.held_since is None else Listened(min(float(row.held_since), self._listening.seconds))
        log.info("rollout.restored", model=model.name, deployment=deployment.name, serial=model.serial, state=deployment.state)
        return replace(
            progress,
            stage_entered_at=row.stage_entered_at,
            judged_from=row.judged_from,
            held_since=held_since,
            reason=row.reason,
            verdicts=gates.from_json(row.gates),
            tally=Tally(row.addressed, row.heard, row.serving, row.failed, row.silent),
            actor=row.actor or "",
            tries_from=row.judged_from if row.tries_from is None else row.tries_from,
        )


def _runs(model: Model) -> bool:
    """Return whether a rollout of the model moves, so that its gates are looked at all the time."""
    return any(one.deployment.state == "running" for one in model.rollouts)


def _why(command: CommandRow) -> str:
    """Return the reason that was given with a command; "" where there is none."""
    return "" if isinstance(command.command, Refused) else command.command.why or ""
