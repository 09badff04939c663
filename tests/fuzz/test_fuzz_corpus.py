"""What fuzzing has found stays found: the kept corpus, and some changes of it, end with a value or the documented refusal, in bounds.

`make fuzz` looks for more, for a minute each. A target that needs a whole fleet is run there, and with what is marked `slow`, only.
"""

import resource
import time
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from schemas.limits import MIB
from tests.fuzz.mutations import mutated
from tests.fuzz.target import CORPUS, SECONDS_MAX
from tests.fuzz.targets import TARGETS

CORPUS_BYTES_MAX = MIB
RSS_GROWTH_MIB_MAX = 512  # By one target's inputs together.
PREPARED = [name for name, one in TARGETS.items() if one.is_prepared]
QUICK = [name for name in TARGETS if name not in PREPARED]


@pytest.mark.parametrize("name", [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in PREPARED)])
def test_kept_inputs_end_with_a_value_or_the_documented_refusal(name: str) -> None:
    target = TARGETS[name]
    target.prepare()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for data in target.inputs():
        began = time.process_time()
        target(data)
        assert time.process_time() - began <= SECONDS_MAX
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before <= RSS_GROWTH_MIB_MAX * 1024


@settings(max_examples=200)
@given(name=some.sampled_from(QUICK), seed=some.integers(0, 2**32))
def test_changed_inputs_end_with_a_value_or_the_documented_refusal(name: str, seed: int) -> None:
    target, chance = TARGETS[name], Random(seed)

    target(mutated(chance.choice(target.inputs()), chance, target.form, bytes_max=target.bytes_max))


def test_every_seed_is_within_its_targets_bound() -> None:
    assert [one.name for one in TARGETS.values() if any(len(seed) > one.bytes_max for seed in one.seeds())] == []


def test_the_corpus_is_small_and_of_known_targets() -> None:
    kept = [path for path in CORPUS.rglob("*") if path.is_file()]

    assert {path.parent.name for path in kept} <= TARGETS.keys()
    assert sum(path.stat().st_size for path in kept) <= CORPUS_BYTES_MAX
