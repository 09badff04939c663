"""Does what was set for drift: one run of a program, or one signed POST, with the evidence. Each drift is reported in one run only.

Drift of one model that is found in many cohorts within `gather_seconds` is one run: a change of season is to start one training, not a
hundred. A run that fails is not repeated: the program has had the evidence, and knows better than we whether to try again. One that the end
of the hub cut short is, twice at the most, with the same id.
"""

import re
from collections.abc import Callable, Sequence
from itertools import groupby
from pathlib import Path
from random import Random

import structlog

from fleetcast import durable
from fleetcast.counted import counted
from hub.alerts import programs
from hub.alerts.receivers import OnDrift
from hub.alerts.webhooks import Poster, read_secret
from hub.database.outbox import Delivery, Outbox
from hub.service.alerts.webhook_delivery import GIVE_UP_SECONDS, RETRY, message_id
from hub.service.telemetry.drift_evidence import Evidence
from schemas.analytics_messages import DriftEvidence
from schemas.errors import Unreachable

log = structlog.get_logger()

STARTS_MAX = 3  # starts of one run: a program that takes the machine down with it is not started for ever
POST_SECONDS_MAX = 10.0
FILES_KEPT = 100  # evidence in the fleet's folder, for people who look into a run
FOLDER = "on_drift"


class OnDriftHook:
    """Do one hook's work."""

    def __init__(
        self,
        hook: OnDrift,
        *,
        directory: Path,
        outbox: Outbox,
        evidence: Evidence,
        fleet: str,
        stopped: Callable[[], bool],
        clock: Callable[[], float],
        rng: Random,
    ) -> None:
        self._hook, self._directory, self._outbox, self._evidence = hook, directory.resolve(), outbox, evidence
        self._fleet, self._stopped, self._clock, self._rng = fleet, stopped, clock, rng
        self._poster = None
        if hook.url:
            seconds = min(POST_SECONDS_MAX, hook.timeout_seconds)
            self._poster = Poster(hook.url, read_secret(Path(hook.secret_file)), ca_file=hook.ca_file, timeout_seconds=seconds)

    @property
    def receiver(self) -> str:
        """Return its name in the outbox."""
        return self._hook.receiver

    def turn(self) -> None:
        """Run for every model whose drift was gathered."""
        self._outbox.collect(self.receiver, self._hook.wants)
        due = sorted(self._outbox.due(self.receiver), key=lambda one: (one.alert.model or "", one.number))
        for _, mine in groupby(due, key=lambda one: one.alert.model):
            members = list(mine)
            # What was begun together is begun again together, whatever has come since: its id is that of its first.
            together = [one for one in members if one.attempts == members[0].attempts]
            if self._stopped():
                return
            if together[0].attempts or self._clock() - together[0].made_at >= self._hook.gather_seconds:
                self._run(together)

    def _run(self, members: Sequence[Delivery]) -> None:
        evidence = self._evidence.of(
            [one.alert for one in members], number=message_id(self._fleet, members[0]), fleet=self._fleet, now=int(self._clock())
        )
        if self._poster is not None:
            self._post(self._poster, members, evidence)
        elif members[0].attempts >= STARTS_MAX:
            text = f"{self.receiver}: gave up drift of {evidence.model}, {STARTS_MAX} runs were cut short"
            self._outbox.give_up(self.receiver, _numbers(members), text=text, body=_body(self.receiver, evidence))
        else:
            self._start(members, evidence)

    def _post(self, poster: Poster, members: Sequence[Delivery], evidence: DriftEvidence) -> None:
        now, body = int(self._clock()), _body(self.receiver, evidence)
        try:
            poster.post(evidence.id, evidence.model_dump_json(exclude_none=True).encode(), timestamp=now)
        except Unreachable as error:
            failures = members[0].attempts + 1
            log.warning("on_drift.failed", receiver=self.receiver, model=evidence.model, failures=failures, reason=str(error))
            if now - members[0].made_at >= GIVE_UP_SECONDS:
                text = f"{self.receiver}: gave up drift of {evidence.model} after {counted(failures, 'attempt')} in three days: {error}"
                self._outbox.give_up(self.receiver, _numbers(members), text=text, body={**body, "reason": str(error)})
            else:
                due_at = now + round(RETRY.after(failures).wait_seconds(self._rng.random())) + 1
                self._outbox.later(self.receiver, _numbers(members), due_at=due_at, error=str(error))
            return
        self._outbox.done(self.receiver, _numbers(members), text=f"{self.receiver}: has the drift of {evidence.model}", body=body)

    def _start(self, members: Sequence[Delivery], evidence: DriftEvidence) -> None:
        path = self._write(evidence)
        self._outbox.begin(self.receiver, _numbers(members))
        log.info("on_drift.started", receiver=self.receiver, model=evidence.model, id=evidence.id)
        ours = {
            "FLEETCAST_DIR": str(self._directory),
            "FLEETCAST_EVIDENCE": str(path),
            "FLEETCAST_EVIDENCE_ID": evidence.id,
            "FLEETCAST_MODEL": evidence.model,
        }
        outcome = programs.run(
            self._hook.command,
            stdin=path,
            directory=self._directory,
            environment={**self._hook.environment, **ours},
            timeout_seconds=self._hook.timeout_seconds,
            stopped=self._stopped,
        )
        if outcome.how == "stopped":
            log.warning("on_drift.cut_short", receiver=self.receiver, model=evidence.model, id=evidence.id)
            return  # it stands in the outbox as begun, and the next hub begins it again
        body = {
            **_body(self.receiver, evidence),
            "outcome": outcome.how,
            "exit_code": outcome.exit_code,
            "seconds": round(outcome.seconds, 1),
            "log": outcome.tail,
        }
        log.info("on_drift.ended", receiver=self.receiver, model=evidence.model, outcome=outcome.how, exit_code=outcome.exit_code)
        summary = {
            "ended": f"ended with {outcome.exit_code}",
            "timed_out": f"was ended after {self._hook.timeout_seconds:g} s",
            "not_started": f"could not be started: {outcome.tail}",
        }[outcome.how]
        text = f"{self.receiver}: drift of {evidence.model}: {self._hook.command[0]} {summary}"
        if outcome.how == "ended" and outcome.exit_code == 0:
            self._outbox.done(self.receiver, _numbers(members), text=text, body=body)
        else:
            self._outbox.give_up(self.receiver, _numbers(members), text=text, body=body, error=f"{self._hook.command[0]} {summary}")

    def _write(self, evidence: DriftEvidence) -> Path:
        """Write the evidence as a file, whole or not at all; the oldest of many are removed."""
        folder = self._directory / FOLDER
        folder.mkdir(mode=0o700, exist_ok=True)
        path = folder / f"{re.sub('[^A-Za-z0-9.-]', '_', self._hook.name)}-{evidence.id}.json"
        durable.write(path, (evidence.model_dump_json(exclude_none=True, indent=2) + "\n").encode())
        for old in sorted(folder.glob("*.json"), key=lambda one: one.stat().st_mtime)[:-FILES_KEPT]:
            old.unlink(missing_ok=True)
        return path


def _numbers(members: Sequence[Delivery]) -> list[int]:
    return [one.number for one in members]


def _body(receiver: str, evidence: DriftEvidence) -> dict[str, object]:
    return {"receiver": receiver, "model": evidence.model, "id": evidence.id, "cohorts": [one.alert.cohort for one in evidence.findings]}
