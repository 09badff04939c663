"""What the hub says is wrong with a bundle on one of its own topics that it did not put there."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from hub.service.delivery.retained_topic_check import judge_model, judge_trust
from hub.signing.tuf_repository import Repository
from schemas import codec
from schemas.bundle import ModelBundle, TrustBundle
from schemas.errors import Code
from tests.hub.hubs import Fleet


def bundles(fleet: Fleet, hours: int = 0) -> tuple[TrustBundle, ModelBundle]:
    repository: Repository = fleet.repository
    repository.refresh(snapshot=fleet.online[0], timestamp=fleet.online[1], now=datetime.now(UTC) + timedelta(hours=hours))
    return repository.trust_bundle(), repository.model_bundle("delay", repository.releases("delay"))


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    made = Fleet(tmp_path / "fleet")
    made.publish("1.0.0")
    return made


def test_our_own_older_bundles_are_a_rollback(fleet: Fleet) -> None:
    older_trust, older_model = bundles(fleet)
    fleet.publish("1.1.0", seed=2)
    trust, model = bundles(fleet, hours=2)

    assert judge_trust(codec.encode(older_trust), trust).code == Code.TRUST_ROLLBACK
    assert judge_model(codec.encode(older_model), model, trust).code == Code.TRUST_ROLLBACK


def test_newer_ones_that_our_keys_signed_speak_of_a_second_hub(fleet: Fleet) -> None:
    trust, model = bundles(fleet)
    fleet.publish("1.1.0", seed=2)
    newer_trust, newer_model = bundles(fleet, hours=2)

    assert judge_trust(codec.encode(newer_trust), trust).code == Code.TRUST_MISMATCH
    assert judge_model(codec.encode(newer_model), model, trust).code == Code.TRUST_MISMATCH


def test_a_stranger_s_are_not_signed_by_this_fleet(fleet: Fleet, tmp_path: Path) -> None:
    trust, model = bundles(fleet)
    stranger = Fleet(tmp_path / "stranger")
    stranger.publish("6.6.6")
    strange_trust, strange_model = bundles(stranger)

    assert judge_trust(codec.encode(strange_trust), trust).code == Code.TRUST_SIGNATURE
    assert judge_model(codec.encode(strange_model), model, trust).code == Code.TRUST_SIGNATURE


def test_junk_and_nothing_have_codes_of_their_own(fleet: Fleet) -> None:
    trust, model = bundles(fleet)
    broken_role = codec.encode(model.model_copy(update={"role": b"{}"}))

    assert judge_trust(b"", trust).code == judge_model(b"", model, trust).code == Code.TRUST_INCOMPLETE
    assert judge_trust(b"junk", trust).code == judge_model(b"junk", model, trust).code == Code.SCHEMA_MALFORMED
    assert judge_model(broken_role, model, trust).code == Code.TRUST_SIGNATURE
