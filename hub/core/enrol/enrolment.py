"""Decides which device gets a certificate: what a token is good for, what may renew until when, whose word in its name counts. No clock."""

from dataclasses import dataclass, field
from typing import Literal

from fleetcast.counted import counted
from schemas.enrolment import CHALLENGE_SECONDS_MAX, Renewal, Statement
from schemas.errors import Code, Refused, mismatch
from schemas.names import sha256
from schemas.state import State

AGAIN_SECONDS = 15 * 60  # an answer that was lost on the way is given again to the same key within this time
AGAIN_SHARE = 0.1  # and of a short life for no longer than this
DAY_SECONDS = 86_400


@dataclass(frozen=True, slots=True)
class TokenFacts:
    """Hold the hub's record of a token; `public_key` and `serial` are those of the device that used it."""

    node: str
    expires_at: int
    used_at: int | None = None
    public_key: bytes | None = None
    serial: str | None = None


@dataclass(frozen=True, slots=True)
class Standing:
    """Hold one enrolled node: the key that the hub knows it by, and the one before."""

    node: str
    public_key: bytes
    earlier_key: bytes | None
    revoked_at: int | None
    not_after: int  # the end of its newest certificate
    renewed_at: int


@dataclass(frozen=True, slots=True)
class Life:
    """Hold what an operator has decided about a name: forgotten, or waiting for new hardware; `settled` when a device has it again."""

    node: str
    state: Literal["forgotten", "expected", "settled"]
    at: int
    expires_at: int | None = None  # until when new hardware is waited for
    old_key: bytes | None = None  # the key that is out
    fingerprint: bytes | None = None  # SHA-256 of the only key that is let in; None for the first that comes
    reported_at: int | None = None  # when it was reported that a forgotten node still speaks
    actor: str | None = None  # Name of the operator who decided it.


@dataclass(frozen=True, slots=True)
class Granted:
    """Hold the answer to a renewal: a new certificate, or the newest one again."""

    kind: Literal["new", "again"]
    key: bytes  # that the certificate is for, DER SubjectPublicKeyInfo


def admit(token: TokenFacts | None, public_key: bytes, *, now: int) -> Literal["new", "again"]:
    """Return whether this key may use this token: once, and the same key again for a while, should the answer have been lost.

    Raises:
        Refused: ENROLMENT_TOKEN for a token that is unknown, expired, or was used.
    """
    if token is None:
        raise Refused(Code.ENROLMENT_TOKEN, "this token is not known here: was it made by another fleet's hub, or withdrawn?")
    if token.used_at is not None:
        if token.public_key != public_key:
            # Worth a look: two devices have had it, and perhaps the wrong one came first.
            raise Refused(Code.ENROLMENT_TOKEN, f"the token for node {token.node!r} was used already, by another device's key")
        if now - token.used_at > AGAIN_SECONDS:
            raise Refused(Code.ENROLMENT_TOKEN, f"the token for node {token.node!r} was used already, {now - token.used_at} s ago")
        return "again"
    if now >= token.expires_at:
        raise Refused(Code.ENROLMENT_TOKEN, f"the token for node {token.node!r} expired {now - token.expires_at} s ago")
    return "new"


def check_statement(statement: Statement, *, fleet: str, now: int) -> None:
    """Check that a statement that we signed still serves as a nonce.

    Raises:
        Refused: ENROLMENT_REQUEST when it is too old, or another fleet's.
    """
    if statement.fleet != fleet:
        raise mismatch(Code.ENROLMENT_REQUEST, "fleet of a renewal", expected=fleet, actual=statement.fleet)
    if not -CHALLENGE_SECONDS_MAX <= now - statement.at <= CHALLENGE_SECONDS_MAX:
        raise mismatch(
            Code.ENROLMENT_REQUEST, "age of a renewal", expected=f"at most {CHALLENGE_SECONDS_MAX} s", actual=f"{now - statement.at} s"
        )


def signing_keys(standing: Standing | None, renewal: Renewal, requested: bytes) -> tuple[bytes, ...]:
    """Return the keys that may sign this renewal: the node's own; and its earlier one, if it asks again for the key that it has been given.

    Raises:
        Refused: ENROLMENT_REQUEST when no such node was enrolled.
    """
    if standing is None:
        raise Refused(Code.ENROLMENT_REQUEST, f"no node {renewal.node!r} was enrolled here: it needs a token")
    if standing.earlier_key is not None and requested == standing.public_key:
        return standing.public_key, standing.earlier_key
    return (standing.public_key,)


def may_renew(standing: Standing, requested: bytes, *, now: int, way_back_days: float) -> Granted:
    """Return what a device whose signature is good gets, however long its certificate has been expired within `way_back_days`.

    Raises:
        Refused: ENROLMENT_REVOKED, or ENROLMENT_REQUEST when it was away for too long.
    """
    if standing.revoked_at is not None:
        raise Refused(Code.ENROLMENT_REVOKED, f"node {standing.node!r} was revoked: it needs a new token")
    away = now - standing.not_after
    if away > way_back_days * DAY_SECONDS:
        raise Refused(
            Code.ENROLMENT_REQUEST,
            f"the certificate of node {standing.node!r} expired {counted(away // DAY_SECONDS, 'day')} ago,"
            f" the way back is open for {way_back_days:g}: it needs a new token",
        )
    age, life = now - standing.renewed_at, standing.not_after - standing.renewed_at
    if requested == standing.public_key and 0 <= age <= min(AGAIN_SECONDS, life * AGAIN_SHARE):
        return Granted("again", requested)
    return Granted("new", requested)


@dataclass(slots=True)
class Roll:
    """Hold the enrolled nodes, and check messages in their names."""

    required: bool = False
    _by_node: dict[str, Standing] = field(default_factory=dict)
    _lives: dict[str, Life] = field(default_factory=dict)

    def take(self, standing: Standing) -> bool:
        """Return what is known of one node, in place of what was known before; False when that is the same."""
        before = self._by_node.get(standing.node)
        self._by_node[standing.node] = standing
        return before != standing

    def take_life(self, life: Life) -> bool:
        """Take in what an operator has said of a name; return whether what was reported in it counts no more."""
        before = self._lives.get(life.node)
        self._lives[life.node] = life
        return life.state != "settled" and (before is None or (before.state, before.at) != (life.state, life.at))

    def forgotten(self, node: str) -> Life | None:
        """Return what was said of a name that nobody has any more."""
        life = self._lives.get(node)
        return life if life is not None and life.state == "forgotten" else None

    def is_expected(self, node: str) -> bool:
        """Return whether a name waits for new hardware."""
        life = self._lives.get(node)
        return life is not None and life.state == "expected"

    def is_revoked(self, node: str) -> bool:
        """Return whether nothing that comes in this name counts."""
        standing = self._by_node.get(node)
        return standing is not None and standing.revoked_at is not None

    def keys(self, node: str) -> tuple[bytes, ...]:
        """Return the keys whose receipts count, the present one first; none of a node that was not enrolled."""
        standing = self._by_node.get(node)
        if standing is None:
            return ()
        return (standing.public_key, *((standing.earlier_key,) if standing.earlier_key is not None else ()))

    def check(self, node: str) -> None:
        """Check that something in this node's name counts.

        Raises:
            Refused: NODE_FORGOTTEN, ENROLMENT_REVOKED, or RECEIPT_UNKNOWN_NODE where enrolment is required and there was none.
        """
        if self.forgotten(node) is not None:
            raise Refused(Code.NODE_FORGOTTEN, f"node {node!r} was forgotten")
        if self.is_revoked(node):
            raise Refused(Code.ENROLMENT_REVOKED, f"node {node!r} was revoked")
        if self.required and node not in self._by_node:
            raise Refused(Code.RECEIPT_UNKNOWN_NODE, f"node {node!r} was never enrolled, and this fleet requires it")

    def counts(self, node: str) -> bool:
        """Return whether `check` lets it pass."""
        return self.forgotten(node) is None and not self.is_revoked(node) and (not self.required or node in self._by_node)

    def check_state(self, state: State, *, now: int) -> None:
        """Check that a state is from the device that was enrolled under this name; a Will names no key.

        Raises:
            Refused: as `check`, or RECEIPT_KEY_CHANGED.
        """
        self.check(state.node)
        keys = self.keys(state.node)
        if keys and state.public_key and state.public_key not in keys:
            raise Refused(Code.RECEIPT_KEY_CHANGED, f"node {state.node!r} shows another device key than the one that was enrolled")
        life = self._lives.get(state.node)
        if not keys and life is not None and life.state == "expected" and state.public_key:
            _check_newcomer(life, state.public_key, now=now)


def _check_newcomer(life: Life, public_key: bytes, *, now: int) -> None:
    again = f"`fleetcast nodes replace {life.node}` lets another one in"
    if life.expires_at is not None and now >= life.expires_at:
        raise Refused(
            Code.RECEIPT_KEY_CHANGED,
            f"node {life.node!r} was to be replaced until {now - life.expires_at} s ago, and this key comes late; {again}",
        )
    if public_key == life.old_key:
        raise Refused(Code.RECEIPT_KEY_CHANGED, f"node {life.node!r} was replaced, and its old device still speaks: switch it off")
    found = sha256(public_key)
    if life.fingerprint is not None and found != life.fingerprint:
        what = f"key of the new device of node {life.node!r}"
        raise mismatch(Code.RECEIPT_KEY_CHANGED, what, expected=life.fingerprint.hex(), actual=f"{found.hex()}; {again}")
