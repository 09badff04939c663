"""What was before a change and what is after it is kept in the history, for every kind of change."""

import time
from collections.abc import Callable
from typing import Any

import pytest

from hub.core.rollouts.changes import change_of
from hub.database.api_rows import ApiTokens, TokenRow
from hub.database.blueprint_rows import Blueprints
from hub.database.device_lives import DeviceLives
from hub.database.enrolments import CertificateRow, Enrolments, Place
from hub.database.rows import NodeRow
from hub.database.store import Store
from schemas import codec
from schemas.deployments import Deployment, ReleaseParameters, Stage
from schemas.rollout import Gate, ReleaseRef
from schemas.state import State


@pytest.fixture
def store() -> Store:
    found = Store("sqlite://").acting("eve")
    found.create()
    return found


def node_row(key: bytes) -> NodeRow:
    state = State(node="n1", session=1, status="online", at=1)
    return NodeRow("n1", 1, "online", 1, codec.encode(state), key, "default")


def make_token(store: Store) -> None:
    ApiTokens(store.database).add(TokenRow("00000001", "ci", "publisher", b"d" * 32, 0, "eve", int(time.time()) + 86_400))


def revoke_token(store: Store) -> None:
    make_token(store)
    ApiTokens(store.database).revoke("00000001")


def forget(store: Store) -> None:
    store.upsert_nodes([node_row(b"key")])
    DeviceLives(store.database).forget("n1")


def replace(store: Store) -> None:
    store.upsert_nodes([node_row(b"key")])
    DeviceLives(store.database).expect("n1", fingerprint=b"f" * 32, expires_at=0)


def take_place(store: Store) -> None:
    replace(store)
    DeviceLives(store.database).take_place(node_row(b"other"))


def make_device_token(store: Store) -> None:
    Enrolments(store.database).add_tokens([(b"d" * 32, Place("n1", "lab", {"site": "x"}))], expires_at=0)


def certify(store: Store) -> None:
    Enrolments(store.database).add_certificate(CertificateRow("0a", "consumer", "client", 2**31, b""))


def revoke(store: Store) -> None:
    certify(store)
    Enrolments(store.database).revoke("consumer")


def apply_twice(store: Store) -> None:
    blueprints = Blueprints(store.database)
    for text in ("models: {}", "models: { }"):
        row = blueprints.begin(text, left=1, same_as=None)
        blueprints.finish(row.revision, state="applied", done=1, reason="", text="done")


@pytest.mark.parametrize(
    ("change", "before", "after"),
    [
        (make_token, None, {"state": "good", "role": "publisher"}),
        (revoke_token, {"state": "good"}, {"state": "revoked"}),
        (forget, {"state": "known", "key": "2c70e12b7a0646f9"}, {"state": "forgotten"}),
        (replace, {"state": "known"}, {"state": "waits for new hardware", "until": "1970-01-01T00:00:00+00:00", "fingerprint": "66" * 8}),
        (take_place, {"key": "2c70e12b7a0646f9"}, {"key": "d9298a10d1b07358"}),
        (make_device_token, None, {"cohort": "lab", "labels": {"site": "x"}}),
        (certify, None, {"serial": "0a"}),
        (revoke, {"certificates": 1}, {"certificates": 0}),
        (apply_twice, {"revision": 1}, {"revision": 2, "state": "applied", "changes": 1}),
    ],
)
def test_the_history_has_both_sides_of_a_change(store: Store, change: Callable[[Store], None], before: Any, after: dict[str, Any]) -> None:
    change(store)

    event = store.changes(limit=1)[0]
    assert event.actor == "eve"
    found = event.body["before"]
    assert (found is None) == (before is None)
    assert {name: (found or {}).get(name) for name in before or {}} == (before or {})
    assert {name: event.body["after"].get(name) for name in after} == after


def test_terms_and_parameters_of_a_rollout_are_in_its_change() -> None:
    release = ReleaseRef("1.0.0", b"d" * 32)
    one = Deployment(name="default", release=release, state="running", rollout=bytes(16), started=0)
    changed = one.model_copy(
        update={
            "parameters": (ReleaseParameters(release.digest, {"threshold": 0.7}),),
            "gate": Gate(receipts_ratio_min=0.8),
            "deadline": 90,
            "stages": (Stage(10), Stage(100)),
        }
    )

    found = change_of(one, changed)

    assert found["after"]["parameters"] == {"threshold": 0.7}
    assert found["after"]["gate"] == {"receipts_ratio_min": 0.8}
    assert found["after"]["stages"] == ["10 %", "100 %"]
    assert [found["before"][name] for name in ("parameters", "gate", "stages", "deadline")] == [None] * 4
