"""Apply a blueprint: change after change, each sent to the hub and answered before the next one, so that a crash leaves a beginning of it.

To apply again goes on from there, for what is done is no difference any more. A command carries the serial that was seen: one that a killed
apply left in the queue, or that somebody sends meanwhile, is not obeyed twice.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Literal

from fleetcast.counted import counted
from hub.core.blueprint import diff
from hub.core.blueprint.changes import Change, SettingsChanged
from hub.core.nodes.device_settings import Chosen, merged
from hub.database.blueprint_rows import BlueprintRow, Blueprints
from hub.database.node_commands import NodeCommands
from hub.operations.blueprint import Options, Plan, made_of, plan
from hub.operations.blueprint_lock import alone
from hub.operations.deployed import model_of
from hub.operations.node_changes import document_of
from hub.operations.opened_fleet import OpenedFleet
from schemas.errors import Code, Refused, Unreachable

ANSWER_SECONDS: Final = 15.0  # How long a running hub may take to obey.
NODES_PER_SECOND: Final = 20.0  # How many nodes' settings a hub signs on a slow disk.
LOOK_SECONDS: Final = 0.1
NEWS_SHOWN: Final = 3  # Changes that are named where others were seen.
STALE_MAX: Final = 20  # Times that a rollout of the model may go on between reading and asking.


@dataclass(frozen=True, slots=True)
class Applied:
    """Say how an apply ended."""

    revision: int
    changes: int  # That were made by this apply.


@dataclass(frozen=True, slots=True)
class Done:
    """Report a change that was made, with what the hub says of it."""

    number: int
    of: int
    change: Change
    text: str


def apply(
    fleet: OpenedFleet,
    approved: Plan,
    options: Options | None = None,
    *,
    report: Callable[[Done], None] = lambda done: None,
    answer_seconds: float = ANSWER_SECONDS,
) -> Applied:
    """Apply what was planned and approved, in the name of the actor in whose name the fleet is open.

    Raises:
        Refused: BLUEPRINT_BUSY: another apply runs. REQUEST_STALE: the fleet has changed since the plan. BLUEPRINT_HELD: something speaks
            against a change. Or the hub refused a change; what came before it is done.
        Unreachable: no hub answered in time, or the database did not.
    """
    options = options or Options()
    with alone(fleet, what=approved.written.name) as check:
        now = plan(fleet, approved.written, options)
        if [one.change for one in now.planned] != [one.change for one in approved.planned]:
            reason = f"the fleet has changed since you looked: {_news(approved, now)}: look at the difference again"
            raise Refused(Code.REQUEST_STALE, reason)
        for one in now.planned:
            if one.held:
                raise Refused(Code.BLUEPRINT_HELD, f"{one.change.sentence}: {one.held}")
        return _Applying(fleet, now, options, report, answer_seconds, check).run()


def _news(seen: Plan, now: Plan) -> str:
    """Return what differs between the changes that were seen and those of now."""
    before, after = ([one.change.sentence for one in of.planned] for of in (seen, now))
    more, less = ([one for one in some if one not in others] for some, others in ((after, before), (before, after)))
    found = [f"{words} {_listed(some)}" for words, some in (("it now also takes:", more), ("no longer needed:", less)) if some]
    return "; ".join(found) or "the changes are other ones now, or come in another order"


def _listed(sentences: Sequence[str]) -> str:
    left = len(sentences) - NEWS_SHOWN
    return "; ".join(sentences[:NEWS_SHOWN]) + (f"; and {left} more" if left > 0 else "")


class _Applying:
    """Hold one apply that runs."""

    def __init__(
        self,
        fleet: OpenedFleet,
        asked: Plan,
        options: Options,
        report: Callable[[Done], None],
        answer_seconds: float,
        check: Callable[[], None],
    ) -> None:
        self._check_alone = check
        self._fleet, self._plan, self._options, self._report, self._answer_seconds = fleet, asked, options, report, answer_seconds
        self._blueprints, self._commands = Blueprints(fleet.store.database), NodeCommands(fleet.store.database)
        self._revision: BlueprintRow | None = None
        self._made_now = 0

    def run(self) -> Applied:
        """Do it all, and keep how it ended."""
        in_force, same, changes = self._plan.in_force, self._plan.same_as, self._plan.planned
        if not changes and same is not None and same == in_force and in_force.state == "applied":
            return Applied(in_force.revision, 0)
        same_as = same.revision if same is not None and same != in_force else None
        try:
            if in_force is not None and (of_before := made_of(self._fleet, in_force)) != in_force.done:
                self._blueprints.count(in_force.revision, of_before)  # From here on another one is compared with the fleet.
            self._revision = self._blueprints.begin(self._plan.written.text, left=len(changes), same_as=same_as)
        except Refused as refused:
            raise Refused(refused.code, f"{refused.reason} (nothing was changed)") from None
        revision = self._revision.revision
        try:
            self._change()
            self._check()
        except (Refused, Unreachable) as error:
            reason = error.reason if isinstance(error, Refused) else str(error)
            with suppress(Refused, Unreachable):  # The database may be what failed: the next apply finds the revision cut off.
                self._finish(self._revision, "failed", reason)
            made = f"{self._done} of {counted(self._revision.changes, 'change')} made, as revision {revision}"
            so_far = f"{made}; `fleetcast apply` again goes on from there"
            if isinstance(error, Refused):
                raise Refused(error.code, f"{reason} ({so_far})") from None
            raise Unreachable(f"{reason} ({so_far})") from None
        except KeyboardInterrupt:
            self._finish(self._revision, "failed", "it was interrupted")
            raise
        self._finish(self._revision, "applied", "")
        return Applied(revision, self._made_now)

    @property
    def _done(self) -> int:
        """Return how many of the revision's changes are made, with those of an apply before that was cut off."""
        return (self._revision.done if self._revision is not None else 0) + self._made_now

    def _finish(self, row: BlueprintRow, state: Literal["applied", "failed"], reason: str) -> None:
        is_continued = row.done > 0 or len(row.actors) > 1
        done = row.changes if state == "applied" and is_continued else self._done  # What a killed apply left queued may have been obeyed.
        how = "applied" if state == "applied" else "not applied whole"
        text = f"blueprint revision {row.revision} was {how}: {done} of {counted(row.changes, 'change')}"
        if len(row.actors) > 1:
            text += f", by {row.actor}"
        self._blueprints.finish(row.revision, state=state, done=done, reason=reason, text=f"{text}; {reason}" if reason else text)

    def _change(self) -> None:
        for one in self._plan.planned:
            if isinstance(one.change, SettingsChanged):
                self._set(one.change)
        for model in self._plan.wanted.models:
            self._move(model)

    def _set(self, change: SettingsChanged) -> None:
        """Send settings of nodes, unless they are so by now."""
        repository = self._fleet.repository
        present = {name: Chosen.of(document_of(repository, name)) for name in change.nodes}
        if any(merged(chosen, change.wish) != chosen for chosen in present.values()):
            self._check_alone()
            wish = change.wish.model_copy(update={"breaking": True}) if self._options.breaking else change.wish
            number = self._commands.add(wish)
            seconds = max(self._answer_seconds, len(change.nodes) / NODES_PER_SECOND)
            self._made(change, self._answer(lambda: self._commands.get(number), number, seconds))

    def _move(self, model: str) -> None:
        """Send what a model needs, one change after another: each follows from what the hub has signed by then."""
        approved = [one.change for one in self._plan.planned]
        store, last, stale = self._fleet.store, None, 0
        while True:
            present = model_of(self._fleet.repository, model)
            change = diff.of_model(self._plan.wanted.models[model], present)
            if change is None:
                return
            if change not in approved:
                reason = f"{model} was changed while the blueprint was applied, and now needs a change that you did not approve"
                raise Refused(Code.REQUEST_STALE, f"{reason}: {change.sentence}")
            if not self._options.supersede and (held := diff.halted_before(present, change)):
                raise Refused(Code.BLUEPRINT_HELD, f"{change.sentence}: {held}")
            if change == last:
                raise Refused(Code.ROLLOUT_INVALID, f"the hub has obeyed, and yet this is still to be done: {change.sentence}")
            command = change.command(now=int(time.time()), breaking=self._options.breaking, supersede=self._options.supersede)
            if present.serial:
                command = command.model_copy(update={"if_serial": present.serial})
            self._check_alone()
            number = store.add_command(model, command)
            try:
                text = self._answer(lambda number=number: store.command(number), number, self._answer_seconds)  # type: ignore[misc]
            except Refused as refusal:
                stale += 1
                if refusal.code is Code.REQUEST_STALE and stale < STALE_MAX:
                    continue
                raise Refused(refusal.code, f"{change.sentence}: {refusal.reason}") from None
            last = change
            self._made(change, text)

    def _made(self, change: Change, text: str) -> None:
        self._made_now += 1
        row = self._revision
        if row is not None:
            self._blueprints.count(row.revision, self._done)
            self._report(Done(self._done, row.changes, change, text))

    def _check(self) -> None:
        """Check that nothing differs any more: the hub may have left nodes out."""
        left = plan(self._fleet, self._plan.written, self._options).planned
        if left:
            raise Refused(Code.BLUEPRINT_HELD, f"all was sent, and yet {counted(len(left), 'change')} is left: {left[0].change.sentence}")

    def _answer(self, get: Callable[[], object], number: int, seconds: float) -> str:
        """Wait until the hub has obeyed, and return what it says.

        Raises:
            Refused: it has refused.
            Unreachable: no answer in time.
        """
        until = time.monotonic() + seconds
        while (answer := get()) is None or getattr(answer, "state", "open") == "open":
            if time.monotonic() >= until:
                raise Unreachable(f"no hub has answered in time; command {number} stays queued: does `fleetcast hub` run?")
            time.sleep(LOOK_SECONDS)
        if getattr(answer, "state", "") == "refused":
            raise Refused(Code(getattr(answer, "code", "")), getattr(answer, "text", ""))
        return str(getattr(answer, "text", ""))
