"""What operators and devices do once, by one command, on disks that break: enrol, renew, issue, revoke, give roles new keys.

python -m tests.faults.acts CASES      # as tests/faults/crashes.py: cases as JSON, one a line

The command is struck at a change of its files, then the same command is run again, which may be struck in its turn; at last it runs on a
disk that is whole, and has to succeed. After each strike must hold what matters in between: a device has the certificate of the key that
the hub knows it by, a hub can sign with what is on its disk, and what it signs is believed by a node that followed and by a new one.
"""

import json
import os
import re
import shutil
import signal
import socket
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from random import Random
from typing import Any, ClassVar

from cryptography import x509

from tests.faults.apart import main, run_apart
from tests.faults.forked import ERRORS, HUNG, PASSPHRASE, Broken, Ended, Fault, How, Office, Program, command, copy
from tests.simulation.whole_fleet.template import scratch as in_memory

STRIKES_MAX = 4
REPEATS_MAX = 12  # A device repeats its command while the hub's disk fails: more often than changes fail.
NODE, FLEET = "gate-17", "plant"
ONLINE = ("rollouts", "snapshot", "timestamp")
TOP = ("root", "targets", "snapshot", "timestamp", "rollouts", "team")
SIGNS_LATER = timedelta(hours=2)  # a timestamp is an hour old by then, so that there is something to sign
WELL_KNOWN = {
    "fleetcast": frozenset({3, 4, 5, 6, 7, 12}),
    "fleetcast-node": frozenset({3, 4, 5, 6, 7}),
}  # exits of a command that could not


@dataclass(frozen=True, slots=True)
class Case:
    """Which act, whose disk breaks, how, at which change of its files, and after how many it is struck again at most (0: never)."""

    scenario: str
    victim: str
    how: How
    at: int
    again: int = 0
    seed: int = 0


@dataclass(slots=True)
class Found:
    """What came of a case: how often the fault struck, at which kinds of changes, what broke."""

    case: Case
    struck: int = 0
    kinds: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)


@cache
def template() -> Path:
    """A fleet with two releases of a model, whose hub has vouched for them; made once, by commands."""
    from tests.hub.cli.fleets import Made, ridge

    folder = in_memory()
    (folder / "scratch").mkdir()
    os.environ["FLEETCAST_PASSPHRASE_FILE"] = str(folder / "secret")
    made = Made(folder)
    made.secret.write_text(f"{PASSPHRASE}\n")
    made.secret.chmod(0o600)
    (folder / "good.onnx").write_bytes(ridge())
    (folder / "other.onnx").write_bytes(ridge(2.0))
    words = ["init", str(made.fleet), "--fleet", FLEET, "--model", "m", "--model", "other", "--broker", "mqtts://127.0.0.1:1"]
    for one in (
        [*words, "--hub-url", "https://127.0.0.1:1"],
        ["publish", str(folder / "good.onnx"), "--name", "m", "--version", "1.0.0", "--dir", str(made.fleet)],
        ["publish", str(folder / "other.onnx"), "--name", "m", "--version", "1.1.0", "--dir", str(made.fleet)],
    ):
        done = command("fleetcast", *one, scratch=folder / "scratch")
        assert done.code == 0, (one, done)
    assert vouch(made.fleet) is None
    return folder


def vouch(fleet: Path) -> str | None:
    """Do what a hub does that starts or runs now; why it signs nothing, if it does not."""
    from hub.signing.key_places import signer_of, stem_of
    from hub.signing.tuf_repository import Repository
    from schemas.errors import Code, Refused

    repository, now = Repository(fleet / "trust"), datetime.now(UTC) + SIGNS_LATER
    keys: Any = {role: signer_of(stem_of(fleet, role), repository.keyids(role), PASSPHRASE.encode()) for role in ONLINE}
    repository.renew_rollouts(rollouts=keys.pop("rollouts"), now=now)
    try:
        repository.refresh(**keys, now=now)
    except Refused as refusal:
        if refusal.code != Code.KEY_NOT_AUTHORISED:
            raise
        return refusal.reason
    return None


class Act(ABC):
    """One act on a copy of the template, and what has to hold of it."""

    victims: ClassVar[tuple[str, ...]] = ("fleet",)

    def __init__(self, case: Case, folder: Path) -> None:
        self.case, self.folder = case, folder
        self.scratch = folder / "scratch"
        copy(template() / "fleet", folder / "fleet")
        shutil.copy2(template() / "secret", folder / "secret")
        self.scratch.mkdir()
        (folder / "site").mkdir()
        self.fleet, self.site = folder / "fleet", folder / "site"
        self.broken: list[str] = []

    @abstractmethod
    def prepare(self) -> None:
        """Do what comes before the act, on a whole disk."""

    @abstractmethod
    def act(self, broken: Broken | None) -> Ended:
        """Run the command; `broken` is the victim's disk."""

    def between(self) -> None:  # noqa: B027  # not every act has something in between
        """Note what does not hold after a strike."""

    @abstractmethod
    def finish(self) -> None:
        """Note what does not hold at the end."""

    def close(self) -> None:  # noqa: B027  # nor something that runs
        """End what still runs."""

    def run(self, program: Program, *words: str, broken: Broken | None = None) -> Ended:
        """Run a command on the fleet or on the device."""
        environment = {"FLEETCAST_PASSPHRASE_FILE": str(self.folder / "secret"), "FLEETCAST_DIR": str(self.fleet)}
        ended = command(program, *words, scratch=self.scratch, broken=broken, environment=environment)
        if "Traceback" in ended.err or ended.code == HUNG:
            self.broken.append(f"{program} {words[0]} ended with {ended.code}:\n{ended.err}")
        elif ended.code not in {0, -signal.SIGKILL, *WELL_KNOWN[program]}:
            self.broken.append(f"{program} {words[0]} ended with {ended.code}, which says nothing about a disk: {ended.err}{_bug(ended)}")
        return ended

    def must(self, program: Program, *words: str) -> str:
        """Run a command that has no reason to fail, and return what it printed."""
        ended = self.run(program, *words)
        assert ended.code == 0, (words, ended)
        return ended.out

    def claim(self, holds: bool, text: str) -> None:
        """Note a claim that does not hold."""
        if not holds:
            self.broken.append(text)


def _bug(ended: Ended) -> str:
    found = re.search(r"/\S+/fleetcast-bug-\S+\.txt", ended.err)
    return f"\n{Path(found[0]).read_text()}" if found and Path(found[0]).exists() else ""


class _Enrolling(Act):
    """A device and a hub's endpoint."""

    victims = ("site", "fleet")

    def __init__(self, case: Case, folder: Path) -> None:
        super().__init__(case, folder)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            url = f"https://127.0.0.1:{probe.getsockname()[1]}"
        self.office = Office(self.fleet, self.scratch, url)
        self.settings = ["--settings", str(self.site / "node.toml")]

    def prepare(self) -> None:
        token = json.loads(self.must("fleetcast", "enroll", "token", "--node", NODE, "--label", "site=a", "--json"))["token"]
        self.words = ["enroll", "--hub", self.office.url, "--token", token, *self.settings]

    def act(self, broken: Broken | None) -> Ended:
        if self.case.victim == "site" or broken is None:
            assert self.office.start(), (self.scratch / "office-log").read_text()
            ended = self.run("fleetcast-node", *self.words, broken=broken)
            self.office.stop()
            return ended
        listens = self.office.start(broken)
        ended = self.run("fleetcast-node", *self.words) if listens else Ended(4, "", "the hub does not start", False)
        fired = self.office.fired
        if fired and ended.code != 0 and listens:  # Its disk is well again soon, and then the same hub serves the same command.
            for _ in range(REPEATS_MAX):
                ended = self.run("fleetcast-node", *self.words)
                if ended.code == 0:
                    break
            self.claim(ended.code == 0, f"a hub whose disk is well again answers: {ended.err}")
        killed = self.office.stop()
        return Ended(ended.code, ended.out, ended.err, killed or fired)

    def close(self) -> None:
        self.office.stop()

    def certificate(self) -> x509.Certificate | None:
        """Return what the device has; None before it has any."""
        from node.agent.enrol import enrolment_flow

        member = enrolment_flow.settle(self.site / "data")
        return x509.load_der_x509_certificate(member.answer.certificate) if member is not None else None

    def rows(self) -> tuple[Any, list[Any]]:
        """Return the hub's row of the node, and all certificates that it issued to nodes."""
        from hub.database.enrolments import Enrolments
        from hub.database.store import Store
        from hub.operations.opening import database_url
        from hub.settings import load

        store = Store(database_url(self.fleet, load(self.fleet)))
        store.create()  # as a hub that starts
        found = Enrolments(store.database)
        rows = found.node(NODE), found.certificates(kinds=("node",))
        store.close()
        return rows

    def between(self) -> None:
        """Check that a node that acts by what is on its disk is known to the hub by what is on the hub's."""
        from node.agent.enrol import enrolment_flow
        from schemas.errors import Refused

        row, issued = self.rows()
        try:
            member = enrolment_flow.settle(self.site / "data")
        except Refused as refusal:
            self.broken.append(f"the device cannot read its enrolment: {refusal.reason}")
            return
        self.claim(len({one.serial for one in issued}) == len(issued), "a serial was issued twice")
        if member is None:
            return
        serial = f"{x509.load_der_x509_certificate(member.answer.certificate).serial_number:x}"
        self.claim(serial in {one.serial for one in issued}, "the device has a certificate that the hub has no record of")
        self.claim(row is not None, "the device is enrolled, and the hub does not know it")
        if row is not None:
            keys = {row.standing.public_key, row.standing.earlier_key}
            self.claim(member.identity.public_key in keys, "the hub does not know the device by the key that it signs with")

    def finish(self) -> None:
        from node.settings import load

        self.between()
        row, issued = self.rows()
        certificate = self.certificate()
        assert certificate is not None
        self.claim(
            row is not None and f"{certificate.serial_number:x}" == row.serial, "the device has another certificate than the hub knows"
        )
        self.claim(len({one.serial for one in issued}) == self.certificates(), f"{len(issued)} certificates were issued")
        found = load(self.site / "node.toml")
        self.claim(
            (found.id, found.fleet, dict(found.labels)) == (NODE, FLEET, {"site": "a"}), f"the settings say {found.id}, {found.labels}"
        )

    def certificates(self) -> int:
        """How many certificates the act issues, however often it is begun."""
        return 1


class Enrol(_Enrolling):
    """`fleetcast-node enroll` with a token: it is used up by one certificate, which the device has or gets by the same command."""


class Renew(_Enrolling):
    """`fleetcast-node renew --new-key`, for a device that is enrolled."""

    def prepare(self) -> None:
        super().prepare()
        self.act(None)
        self.before = self.certificate()
        self.words = ["renew", "--new-key", *self.settings]

    def certificates(self) -> int:
        return len({one.serial for one in self.rows()[1]})  # A renewal that was repeated after its end is another one.

    def between(self) -> None:
        super().between()
        self.claim(self.certificate() is not None, "the device is not enrolled any more")

    def finish(self) -> None:
        super().finish()
        after = self.certificate()
        assert after is not None
        assert self.before is not None
        self.claim(after.public_key() != self.before.public_key(), "the device has its old key")
        self.claim(not (self.site / "data" / "device-next.pem").exists(), "a next key is left")


class Issue(Act):
    """`fleetcast ca issue-client`: a certificate that is in no record could never be revoked."""

    def prepare(self) -> None:
        self.words = ["ca", "issue-client", "analytics", "--out", str(self.fleet / "grafana" / "analytics")]

    def act(self, broken: Broken | None) -> Ended:
        return self.run("fleetcast", *self.words, broken=broken)

    def between(self) -> None:
        from hub.signing.certificate_authority import load_certificate, public_der
        from hub.signing.keys import load_p256
        from tests.offices import spki

        path = self.fleet / "grafana" / "analytics.crt"
        if not path.exists():
            return
        certificate = load_certificate(path)
        listed = json.loads(self.must("fleetcast", "ca", "show", "--json"))
        serials = {one.get("serial") for one in listed}
        self.claim(f"{certificate.serial_number:x}" in serials, f"a certificate is in no record: {listed}")
        self.claim(spki(load_p256(path.with_suffix(".key"))) == public_der(certificate), "a certificate and its key do not fit")

    def finish(self) -> None:
        self.between()
        for name in ("analytics.crt", "analytics.key", "ca.crt"):
            self.claim((self.fleet / "grafana" / name).exists(), f"{name} is missing")


class Revoke(_Enrolling):
    """`fleetcast enroll revoke`: the hub's database and the broker's list say the same at the end, and the list can always be read."""

    victims = ("fleet",)

    def prepare(self) -> None:
        super().prepare()
        super().act(None)
        certificate = self.certificate()
        assert certificate is not None
        self.serial = certificate.serial_number

    def act(self, broken: Broken | None) -> Ended:
        return self.run("fleetcast", "enroll", "revoke", NODE, broken=broken)

    def between(self) -> None:
        path = self.fleet / "broker" / "tls" / "revoked.crl"
        if path.exists():
            listed = {one.serial_number for one in x509.load_pem_x509_crl(path.read_bytes())}
            row, _ = self.rows()
            self.claim(self.serial not in listed or row.standing.revoked_at is not None, "the broker's list is ahead of the records")

    def finish(self) -> None:
        row, _ = self.rows()
        self.claim(row.standing.revoked_at is not None, "the node is not revoked")
        listed = {one.serial_number for one in x509.load_pem_x509_crl((self.fleet / "broker" / "tls" / "revoked.crl").read_bytes())}
        self.claim(self.serial in listed, "the broker's list does not have it")


class _Rotation(Act):
    """A change of keys. A node follows it in every state that is on the disk, and a new one can begin there."""

    roles: ClassVar[tuple[str, ...]] = ONLINE
    words: ClassVar[tuple[str, ...]]

    def prepare(self) -> None:
        self.keyids = self.present()
        self.followed = self.folder / "followed"
        self.believed()

    def act(self, broken: Broken | None) -> Ended:
        return self.run("fleetcast", *self.words, broken=broken)

    def present(self) -> dict[str, list[str]]:
        from hub.signing.tuf_repository import Repository

        repository = Repository(self.fleet / "trust")
        return {role: repository.keyids("model-m" if role == "team" else role) for role in self.roles}

    def believed(self, *, is_between: bool = False) -> None:
        """Show a node that has followed, and a new one, what a hub retains now.

        A team's new key is named before it has signed what is kept: in between, nodes keep what they have and take no release of the model,
        as is right where the old key was stolen. The same command, run again, ends it.
        """
        from hub.signing.tuf_repository import Repository
        from node.trust.tuf_client import Trust
        from schemas.errors import Code, Refused

        repository, now = Repository(self.fleet / "trust"), datetime.now(UTC) + SIGNS_LATER
        new = self.folder / "new"
        shutil.rmtree(new, ignore_errors=True)
        for name, folder in (("that followed", self.followed), ("that is new", new)):
            trust = Trust(folder, repository.root(1))
            accepted = False
            try:
                trust.accept(repository.trust_bundle(), now=now)
                accepted = True
                trust.accept_model(repository.model_bundle("m", ["1.0.0", "1.1.0"]), now=now)
            except Refused as refusal:
                if is_between and accepted and "team" in self.roles and refusal.code == Code.TRUST_SIGNATURE:
                    continue
                self.broken.append(f"a node {name} refuses what the hub retains: {refusal.code} {refusal.reason}")

    def between(self) -> None:
        from schemas.errors import Refused

        self.believed(is_between=True)  # what was retained before, for a hub that does not run
        try:
            vouch(self.fleet)
        except Refused as refusal:
            self.broken.append(f"a hub cannot sign with what is on its disk: {refusal.code} {refusal.reason}")
        else:
            self.believed(is_between=True)

    def finish(self) -> None:
        why = vouch(self.fleet)
        self.claim(why is None, f"the hub signs nothing: {why}")
        self.believed()
        after = self.present()
        for role in self.roles:
            self.claim(not set(after[role]) & set(self.keyids[role]), f"{role} has its old key")
        left = [path.name for path in self.fleet.rglob("*.next*")]  # whole, or parts of them
        self.claim(not left, f"keys wait that nobody names: {left}")
        shown = self.run("fleetcast", "keys", "show", "--check", "--json")
        self.claim(shown.code == 0 and not re.search(r'"(warning|urgent|expired)"', shown.out), f"keys show: {shown.out}{shown.err}")


class RotateOnline(_Rotation):
    """`fleetcast keys rotate` of the roles that the hub signs."""

    words = ("keys", "rotate", *ONLINE)


class RotateAll(_Rotation):
    """`fleetcast keys rotate` of every role, as after a theft of everything."""

    roles = TOP
    words = ("keys", "rotate", *TOP, "--keep", "m@1.0.0", "--keep", "m@1.1.0")


class Ceremony(_Rotation):
    """`fleetcast keys ceremony --apply` of an offer that holders have signed, each of whom has a key of their own."""

    roles = ("targets", "timestamp")

    def prepare(self) -> None:
        super().prepare()
        holders, offer = self.folder / "holders", str(self.folder / "change.json")
        holders.mkdir()
        for path in (self.fleet / "keys").glob("root-*"):
            path.rename(holders / path.name)
        self.must("fleetcast", "keys", "rotate", *self.roles, "--offer", offer)
        for name in ("root-1", "root-3"):
            self.must("fleetcast", "keys", "ceremony", "--sign", offer, "--key", str(holders / f"{name}.pem"), "--yes")
        self.offer = offer

    def act(self, broken: Broken | None) -> Ended:
        return self.run("fleetcast", "keys", "ceremony", "--apply", self.offer, broken=broken)


ACTS: dict[str, Callable[[Case, Path], Act]] = {
    "enrol": Enrol,
    "renew": Renew,
    "issue": Issue,
    "revoke": Revoke,
    "rotate-online": RotateOnline,
    "rotate-all": RotateAll,
    "ceremony": Ceremony,
}


def run(case: Case) -> Found:
    """Run one case in this process."""
    found, folder, chances = Found(case), in_memory(), Random(f"{case}")
    act = ACTS[case.scenario](case, folder / "case")
    try:
        act.prepare()
        place, at = act.folder / case.victim, case.at
        for _ in range(STRIKES_MAX if case.how != "none" else 1):
            length = chances.choice((-1, 1, 3)) if case.how in ERRORS else -1
            if case.victim == "fleet" and isinstance(act, _Enrolling) and case.how in ERRORS:
                length = chances.choice((1, 3, 9))  # so that the same hub may go on
            broken = Broken(Fault(place, case.how, at, length), act.scratch)
            ended = act.act(broken)
            if case.how == "none":
                found.kinds = broken.kinds
            if not ended.struck:
                break
            found.struck += 1
            if ended.code == -signal.SIGKILL or case.how not in ERRORS:
                broken.leave(chances)
            act.between()
            if not case.again:
                break
            at = int(case.again ** chances.random())
        ended = act.act(None)
        act.claim(ended.code == 0, f"on a whole disk the same command ends with {ended.code}: {ended.err}")
        act.finish()
    except Exception:
        act.broken.append(f"an error that nobody caught: {traceback.format_exc()}")
    finally:
        act.close()
    found.broken = list(dict.fromkeys(act.broken))
    shutil.rmtree(folder, ignore_errors=True)
    return found


def ready() -> None:
    """Load what every case needs, so that no fork has to, and make its fleet."""
    import logging

    import structlog

    import hub.cli.commands
    import hub.cli.key_rotation
    import hub.service.enrol.enrolment_service  # noqa: F401
    import node.agent.enrol.enrolment_flow
    import node.cli.commands  # noqa: F401

    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    template()


def outcome(case: dict[str, Any]) -> dict[str, Any]:
    """Return what came of a case that ran in a fork."""
    return run_apart(Case(**case), run, Found, seconds=240)


if __name__ == "__main__":
    raise SystemExit(main(__doc__, ready, outcome))
