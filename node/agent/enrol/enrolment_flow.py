"""Join a fleet, and stay in it: the device's key, the hub's answers and the files that come of them, put together in order.

What the hub answers is verified before a byte of it is kept, when the device enrols the trust metadata too; then it is kept in one write;
then everything else is made from that, again if need be. `enrol` is what a person asks for once, `renew` what the agent does by itself.
"""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from fleetcast.mqtt_connection import BrokerUrl
from node.enrol import enrolment_client
from node.enrol.certificates import Certified, certified
from node.enrol.enrolment_files import KEY_NAME, NEXT_KEY_NAME, Enrolment, Kept
from node.enrol.identity import Identity
from node.trust.tuf_client import Trust
from schemas import codec
from schemas.bundle import TrustBundle
from schemas.enrolment import RENEWAL_CONTEXT, Enrolled, EnrolmentRequest, Renewal, SealedRenewal, Token
from schemas.errors import Code, Refused, mismatch
from schemas.names import RESERVED_NODES, sha256


@dataclass(frozen=True, slots=True)
class Membership:
    """Describe what the device has of its fleet: its key, the hub's answer, and what its certificate says."""

    identity: Identity
    kept: Kept
    answer: Enrolled
    certified: Certified


def settle(data: Path) -> Membership | None:
    """Finish what an enrolment or a renewal began, wherever it was broken off; None when the device was never enrolled.

    Raises:
        Refused: something of it is damaged, or cannot be written.
    """
    enrolment = Enrolment(data)
    if enrolment.kept() is None:
        return None
    with enrolment.locked():
        kept = enrolment.kept()
        assert kept is not None  # noqa: S101  # nothing removes it
        answer = kept.answer
        mine = certified(answer)
        identity = Identity.load_or_create(data / KEY_NAME)
        if identity.public_key != mine.public_key:
            following = data / NEXT_KEY_NAME
            if not following.exists() or Identity.load_or_create(following).public_key != mine.public_key:
                raise Refused(Code.KEY_UNREADABLE, f"{data / KEY_NAME} is not the key that this device was enrolled with: enrol again")
            enrolment.take_next_key()
            identity = Identity.load_or_create(data / KEY_NAME)
        enrolment.derive(kept)
    return Membership(identity, kept, answer, mine)


def enrol(data: Path, *, hub: str, token: Token, site_id: str | None = None) -> Membership:
    """Become the node that the token is for; the same token again goes on where an earlier try was broken off.

    Raises:
        Refused: the token or its pin is not good, what the hub answered does not hold, or it cannot be written.
        Unreachable: the hub does not answer.
    """
    enrolment = Enrolment(data)
    kept = enrolment.kept()
    if kept is None or kept.token != token.digest:
        with enrolment.locked():
            identity = Identity.load_or_create(data / KEY_NAME)  # here it is made, and durable before anybody hears of it
        # Not locked: an exchange may take minutes, and two of them at once get the same answer.
        authority = enrolment_client.authority_of(hub, pin=token.pin)
        with enrolment_client.session(hub, authority=authority.certificate) as session:
            answer = session.enrol(EnrolmentRequest(secret=token.secret, request=identity.request()))
            at = session.statement.at
        if (answer.authority, sha256(answer.root)) != (authority.certificate, authority.root):
            raise Refused(Code.ENROLMENT_PIN, "the hub's answer holds another authority or trust root than the token names")
        _verify(answer, identity.public_key, at=at)
        _verify_trust(answer, at=at)
        if site_id is not None and answer.node != site_id:
            raise mismatch(Code.NAME_INVALID, "node of the token", expected=f"{site_id}, as node.toml says", actual=answer.node)
        with enrolment.locked():
            enrolment.keep(Kept(hub=hub, token=token.digest, at=at, enrolled=codec.encode(answer)))
    member = settle(data)
    assert member is not None  # noqa: S101  # it was kept a moment ago
    return member


@dataclass(frozen=True, slots=True)
class Renewed:
    """Describe what a renewal brought, verified; nothing of it is kept yet."""

    kept: Kept
    answer: Enrolled
    at: int  # by the hub's signed word


def renew(data: Path, member: Membership, *, hub: str, new_key: bool, on_signed_time: Callable[[int], object] = lambda at: None) -> Renewed:
    """Ask for the next certificate, signing with the key that the hub knows; `on_signed_time` is called as soon as the hub has signed.

    Raises:
        Refused: the hub says no, or what it says does not hold.
        Unreachable: it does not answer.
    """
    following = data / NEXT_KEY_NAME
    # A next key that is there already was perhaps sent, and the answer lost: another one would lock us out.
    key = Identity.load_or_create(following) if new_key or following.exists() else member.identity
    with enrolment_client.session(hub, authority=member.answer.authority) as session:
        on_signed_time(session.statement.at)
        body = codec.encode(
            Renewal(
                node=member.answer.node,
                statement=session.signed.body,
                statement_signature=session.signed.signature,
                request=key.request(),
            )
        )
        answer = session.renew(SealedRenewal(body=body, signature=member.identity.sign(RENEWAL_CONTEXT + body)))
        at = session.statement.at
    _verify(answer, key.public_key, at=at)
    for name in ("fleet", "node", "authority", "root"):
        # The hub may move a node to another broker; who vouches for it and for releases was settled when it was enrolled.
        if getattr(answer, name) != getattr(member.answer, name):
            raise Refused(Code.TRUST_MISMATCH, f"the hub's answer names another {name} than this device was enrolled with")
    return Renewed(member.kept.model_copy(update={"hub": hub, "at": at, "enrolled": codec.encode(answer)}), answer, at)


def keep(data: Path, renewed: Renewed) -> Membership:
    """Keep what a renewal brought.

    Raises:
        Refused: it cannot be written; what was kept before stands.
    """
    enrolment = Enrolment(data)
    with enrolment.locked():
        enrolment.keep(renewed.kept)
    member = settle(data)
    assert member is not None  # noqa: S101  # it was kept a moment ago
    return member


def take_trust(data: Path, member: Membership) -> int:
    """Believe the trust bundle that came with the enrolment, so that no fresh node can be shown an older one; the time that it proves.

    Raises:
        Refused: it is older than what is believed already, or does not hold.
    """
    now = datetime.fromtimestamp(member.kept.at, UTC)
    view = Trust(data / "trust", member.answer.root).accept(codec.decode(TrustBundle, member.answer.trust), now=now)
    return int(view.timestamp_expires.timestamp())


def _verify(answer: Enrolled, public_key: bytes, *, at: int) -> None:
    """Verify the hub's answer, before any of it is kept."""
    mine = certified(answer, at=at)
    if mine.public_key != public_key:
        raise Refused(Code.CERTIFICATE_INVALID, "the hub's answer holds a certificate of another key than this device's")
    if answer.node in RESERVED_NODES:
        raise Refused(Code.NAME_INVALID, f"the hub calls this device {answer.node!r}, which is reserved")
    BrokerUrl.parse(answer.broker)


def _verify_trust(answer: Enrolled, *, at: int) -> None:
    """Verify the trust metadata that comes with a first certificate. With a later one it is taken as a broker's would be: it may be
    refused, and
    the certificate is good all the same.
    """
    with tempfile.TemporaryDirectory(prefix="fleetcast-enrol-") as scratch:
        Trust(Path(scratch), answer.root).accept(codec.decode(TrustBundle, answer.trust), now=datetime.fromtimestamp(at, UTC))
