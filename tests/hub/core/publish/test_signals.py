"""What is watched of a model: by default what its reference suggests, else what is named, and nothing that does not exist."""

from typing import Any

import numpy as np
import pytest

from hub.core.publish import signals
from hub.core.publish.baseline import Times, build_baseline
from hub.core.publish.release import Feature, Fitted, kind_of
from hub.core.publish.signals import Candidate, Model
from schemas.errors import Code, Refused
from schemas.limits import CATEGORIES_MAX, SIGNALS_MAX
from schemas.manifest import Limits, Tensor
from schemas.signals import Season

RNG = np.random.default_rng(0)
DAY = 86_400


def tabular(columns: dict[str, Any], answers: dict[str, Any] | None = None) -> Model:
    tensor = Tensor(name="x", datatype="FP32", shape=(-1, len(columns)))
    features = tuple(
        Feature(name, tensor, place, kind_of(column, categories_max=31)) for place, (name, column) in enumerate(columns.items())
    )
    return model((tensor,), Fitted(features, columns, None), answers)


def whole(name: str, rows: Any, answers: dict[str, Any] | None = None, datatype: str = "FP32") -> Model:
    tensor = Tensor(name=name, datatype=datatype, shape=(-1, *rows.shape[1:]))  # type: ignore[arg-type]
    return model((tensor,), Fitted((Feature(name, tensor, 0, "numeric"),), {name: rows}, None), answers)


def model(inputs: tuple[Tensor, ...], fitted: Fitted | None, answers: dict[str, Any] | None = None, **changes: Any) -> Model:
    outputs = tuple(Tensor(name=name, datatype="FP32", shape=(-1, 1)) for name in answers or {})
    return Model(inputs, outputs, Limits(), fitted, answers or {}, **changes)


def names(candidates: list[Candidate]) -> list[str]:
    return [one.spec.name for one in candidates]


def test_every_input_column_and_every_single_output_is_watched() -> None:
    columns = {"age": np.linspace(0, 1, 50, dtype="f4"), "wheels": np.arange(50) % 3}
    answers = {"label": np.arange(50) % 2, "score": np.linspace(0, 1, 50, dtype="f4")[:, None], "all": np.zeros((50, 3), "f4")}

    found, unwatched = signals.declared(tabular(columns, answers), None)

    assert [(one.spec.name, one.spec.kind, one.spec.side, one.spec.tensor, one.spec.column) for one in found] == [
        ("age", "numeric", "input", "x", 0),
        ("wheels", "categorical", "input", "x", 1),
        ("label", "categorical", "output", "label", 0),
        ("score", "numeric", "output", "score", 0),
    ]
    assert [one.name for one in unwatched] == ["all"]
    assert "all[0]" in unwatched[0].reason


def test_probabilities_are_watched_by_class_confidence_and_entropy() -> None:
    shares = RNG.dirichlet(np.ones(3), size=50)

    found, _ = signals.declared(tabular({"age": np.arange(50.0)}, {"p": shares}), None)
    values = {one.spec.name: one.spec.measured(one.rows) for one in found if one.rows is not None}

    assert names(found) == ["age", "p:class", "p:confidence", "p:entropy"]
    assert (values["p:class"] == shares.argmax(axis=1)).all()
    assert values["p:confidence"] == pytest.approx(shares.max(axis=1))
    assert values["p:entropy"] == pytest.approx(-(shares * np.log(shares)).sum(axis=1))


@pytest.mark.parametrize("shape", [(50, 3, 16, 16), (50, 8_000), (50, 384)])
def test_images_sound_and_embeddings_are_watched_as_wholes(shape: tuple[int, ...]) -> None:
    found, _ = signals.declared(whole("picture", RNG.normal(size=shape).astype("f4")), None)

    projections = [f"picture:projection[{number}]" for number in range(signals.PROJECTIONS)]
    assert names(found) == ["picture:mean", "picture:deviation", "picture:sparsity", *projections]
    assert {one.spec.seed for one in found} == {None, signals.SEED}


def test_token_ids_are_watched_by_length_and_by_the_unknown_token_that_is_named() -> None:
    ids = np.zeros((50, 64), np.int64)
    ids[:, :10], ids[:, :2] = 7, 100
    tokens = whole("input_ids", ids, datatype="INT64")

    by_default, _ = signals.declared(tokens, None)
    named, _ = signals.declared(tokens, ["input_ids:unknown=100"])

    assert names(by_default) == ["input_ids:length"]
    assert set(by_default[0].spec.measured(ids)) == {10.0}
    assert set(named[0].spec.measured(ids)) == {0.2}


def test_sentences_are_watched_by_their_words_and_categories_as_such() -> None:
    texts = np.array([" ".join(["word"] * (1 + number % 5)) + f" {number}" for number in range(50)], object)
    tensor = Tensor(name="text", datatype="BYTES", shape=(-1, 1))
    few = np.array(["yes", "no"] * 25, object)
    fitted = {
        kind: Fitted((Feature("text", tensor, 0, "categorical"),), {"text": column}, None) for kind, column in (("t", texts), ("c", few))
    }

    assert len(set(texts)) > CATEGORIES_MAX
    assert names(signals.declared(model((tensor,), fitted["t"]), None)[0]) == ["text:length"]
    assert names(signals.declared(model((tensor,), fitted["c"]), None)[0]) == ["text"]


def test_what_generates_text_is_watched_without_a_reference_where_nodes_have_their_own() -> None:
    prompt, text = (Tensor(name=name, datatype="BYTES", shape=(1,)) for name in ("prompt", "text"))

    found, _ = signals.declared(Model((prompt,), (text,), Limits(), calibrates=True), None)

    assert names(found) == [
        *("prompt:length", "text:length", "text:refusal", "text:stop"),
        *("service:latency_ms", "service:error", "service:memory_mib"),
    ]
    assert all(one.rows is None and (one.edges or one.categories) for one in found)


def test_tokens_of_texts_are_watched_where_they_are_named() -> None:
    prompt, text = (Tensor(name=name, datatype="BYTES", shape=(1,)) for name in ("prompt", "text"))

    found, _ = signals.declared(Model((prompt,), (text,), Limits(), calibrates=True), ["prompt:tokens", "text:tokens"])

    assert [(one.spec.side, one.spec.tensor, one.spec.measure, one.rows) for one in found] == [
        ("input", "prompt", "tokens", None),
        ("output", "text", "tokens", None),
    ]
    assert all(one.edges for one in found)


def test_a_value_of_a_wide_output_is_watched_when_it_is_named() -> None:
    answers = {"all": np.arange(90.0).reshape(30, 3)}

    found, _ = signals.declared(tabular({"age": np.arange(30.0)}, answers), ["all[2]"])

    assert [(one.spec.name, one.spec.column) for one in found] == [("all[2]", 2)]
    assert found[0].rows is not None
    assert (found[0].spec.measured(found[0].rows) == answers["all"][:, 2]).all()


def test_logits_that_are_named_are_made_probabilities() -> None:
    logits = RNG.normal(size=(30, 5)) * 4

    found, _ = signals.declared(tabular({"age": np.arange(30.0)}, {"z": logits}), ["z:confidence"])

    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert found[0].spec.softmax is True
    assert found[0].spec.measured(logits) == pytest.approx(shares.max(axis=1))


def test_an_output_named_as_a_column_keeps_a_name_of_its_own() -> None:
    found, _ = signals.declared(tabular({"speed": np.arange(30.0)}, {"speed": np.arange(30.0)}), None)

    assert names(found) == ["speed", "output speed"]


def test_more_columns_than_a_window_holds_are_said_and_the_output_stays() -> None:
    columns = {f"c{number}": np.arange(30.0) for number in range(SIGNALS_MAX)}

    found, unwatched = signals.declared(tabular(columns, {"y": np.arange(30.0)}), None)

    assert len(found) == SIGNALS_MAX
    assert found[-1].spec.side == "output"
    assert [one.name for one in unwatched] == [f"c{SIGNALS_MAX - 1}"]


@pytest.mark.parametrize(
    "named", [["speed"], ["age", "age"], [], ["age:dance"], ["x:tokens"], ["x:projection"], ["x:unknown"], ["service:mood"]]
)
def test_signals_that_do_not_exist_are_refused(named: list[str]) -> None:
    with pytest.raises(Refused) as caught:
        signals.declared(tabular({"age": np.arange(30.0)}), named)

    assert caught.value.code == Code.REFERENCE_INVALID


def test_a_name_too_long_for_a_signal_is_refused() -> None:
    with pytest.raises(Refused, match="64 characters"):
        signals.declared(tabular({"a" * 65: np.arange(30.0)}), None)


# Hours of the week


def weeks(rng: np.random.Generator, *, night: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    seconds = np.arange(0, 56 * DAY, 600)
    hours = seconds % DAY // 3600
    return rng.normal(size=len(seconds)) + np.where(hours < 8, night, 0.0), seconds, seconds // DAY


def test_hours_that_differ_have_a_reference_each_and_those_that_do_not_share_one() -> None:
    season = Season(hours=8, weekends=True)
    rng = np.random.default_rng(1)
    (daily, seconds, days), (flat, _, _) = weeks(rng, night=2.0), weeks(rng, night=0.0)
    specs = [one.spec for one in signals.declared(tabular({"daily": daily, "flat": flat}), None)[0]]

    baseline = build_baseline(list(zip(specs, (daily, flat), strict=True)), days, times=Times(seconds, season))

    first, second = baseline.signals
    assert baseline.season == season
    assert first.seasons is not None
    assert second.seasons is None
    assert np.array(first.seasons).sum(axis=0).tolist() == list(first.counts)
    assert first.reference(season.key_of(3 * 3600))[-2] > 4 * first.reference(season.key_of(12 * 3600))[-2]


def test_hours_apart_leave_less_between_days_than_all_hours_together() -> None:
    daily, seconds, _ = weeks(np.random.default_rng(2), night=2.0)
    (candidate,), _ = signals.declared(tabular({"daily": daily}), None)
    half_days = seconds // (DAY // 2)

    apart = build_baseline([(candidate.spec, daily)], half_days, times=Times(seconds, Season(hours=8)))
    together = build_baseline([(candidate.spec, daily)], half_days)

    assert apart.signals[0].between[0] < 0.2 * together.signals[0].between[0]


def test_a_key_of_a_season_follows_the_sites_clock_and_knows_weekends() -> None:
    season = Season(hours=12, weekends=True, offset_minutes=60)

    assert [season.key_of(at) for at in (0, 11 * 3600, 2 * DAY, 2 * DAY - 3600)] == [0, 1, 2, 2]  # 1970-01-01 was a Thursday
