"""Topic names and who may use them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import Code, Refused
from schemas.limits import BLOCK_BYTES_MAX, KIB
from schemas.names import NAME_PATTERN, RESERVED_NODES, check_name, check_version, version_key
from schemas.topics import CONSUMER, LEVELS_MAX, TABLE, TOPIC_CHARACTERS_MAX, Topics, access_list, block_digest, consumer_access_list

TOPICS = Topics("main")
LONGEST = "n" * 64
names = st.from_regex(NAME_PATTERN[1:-1], fullmatch=True)


def all_topics(node: str, model: str, cohort: str, digest: bytes) -> dict[str, tuple[str, tuple[str, ...]]]:
    return {
        "trust": (TOPICS.trust, ()),
        "trust-time": (TOPICS.trust_time, ()),
        "trust-roles": (TOPICS.trust_roles, ()),
        "deployed": (TOPICS.deployed, ()),
        "deploy": (TOPICS.deploy(model), (model,)),
        "model": (TOPICS.model(model), (model,)),
        "block": (TOPICS.block(digest), (digest.hex(),)),
        "hub": (TOPICS.hub, ()),
        "want": (TOPICS.want(node), (node,)),
        "state": (TOPICS.state(node), (node,)),
        "receipt": (TOPICS.receipt(node), (node,)),
        "settings": (TOPICS.settings(node), (node,)),
        "telemetry": (TOPICS.telemetry(model, cohort), (model, cohort)),
        "windows": (TOPICS.windows(model), (model,)),
        "drift": (TOPICS.drift(model), (model,)),
        "alert": (TOPICS.alert, ()),
    }


@given(names, names, names, st.binary(min_size=32, max_size=32))
def test_every_topic_that_is_built_is_parsed_back(node: str, model: str, cohort: str, digest: bytes) -> None:
    built = all_topics(node, model, cohort, digest)

    assert built.keys() == {kind.name for kind in TABLE}
    for kind, (topic, levels) in built.items():
        address = TOPICS.parse(topic)

        assert (address.kind, address.levels) == (kind, levels)


@given(names, names, names, st.binary(min_size=32, max_size=32))
def test_a_kinds_filter_matches_its_topics_and_no_others(node: str, model: str, cohort: str, digest: bytes) -> None:
    for kind, (topic, _) in all_topics(node, model, cohort, digest).items():
        matching = {other.name for other in TABLE if matches(TOPICS.filter(other.name), topic)}

        assert matching == {kind}


def test_the_tree_fits_poor_brokers() -> None:
    for topic, _ in all_topics(LONGEST, LONGEST, LONGEST, bytes(32)).values():
        assert topic.count("/") < LEVELS_MAX
        assert len(topic) <= TOPIC_CHARACTERS_MAX
    assert BLOCK_BYTES_MAX + len(TOPICS.block(bytes(32))) + 100 <= 128 * KIB


@pytest.mark.parametrize(
    "topic",
    [
        "",
        "trust",
        "fleetcast/v1/main/",
        "fleetcast/v1/main/trust/",
        "fleetcast/v1/main//trust",
        "fleetcast/v1/other/trust",
        "fleetcast/v2/main/trust",
        "fleetcast/v1/mainx/trust",
        "fleetcast/v1/main/want",
        "fleetcast/v1/main/want/a/b",
        "fleetcast/v1/main/unknown",
        "$SYS/broker",
        "fleetcast/v1/main/want/" + "n" * 1_000,
    ],
)
def test_what_is_not_our_topic_is_refused(topic: str) -> None:
    with pytest.raises(Refused) as refusal:
        TOPICS.parse(topic)

    assert refusal.value.code == Code.SCHEMA_MALFORMED


@pytest.mark.parametrize("level", ["", "00", "00" * 31, "00" * 33, "zz" * 32, "0x" + "00" * 31, "00 " * 32, "AB" * 32])
def test_a_block_topic_without_a_digest_is_refused(level: str) -> None:
    with pytest.raises(Refused) as refusal:
        block_digest(TOPICS.parse(f"fleetcast/v1/main/block/{level}"))

    assert refusal.value.code == Code.SCHEMA_MALFORMED


@pytest.mark.parametrize(
    "name", ["", "-", "a-", "-a", "A", "a/b", "a+", "#", "a b", "a\n", "a\nuser eve", "é", "a_b", "a.b", "..", "n" * 65, "\uff4e"]
)
def test_a_name_that_could_be_more_than_one_level_or_line_is_refused(name: str) -> None:
    for use in (lambda: check_name("node", name), lambda: Topics(name), lambda: access_list(name), lambda: consumer_access_list(name)):
        with pytest.raises(Refused) as refusal:
            use()

        assert refusal.value.code == Code.NAME_INVALID


def test_the_list_gives_nodes_no_topic_that_the_hub_writes() -> None:
    writable = {line.split()[2] for line in access_list("main").splitlines() if line.startswith("pattern write")}

    assert writable == {TOPICS.prefix + kind.pattern.replace("{node}", "%u").replace("{}", "+") for kind in TABLE if kind.writer == "node"}


def test_consumers_have_only_reads_and_only_in_their_own_list() -> None:
    lines = consumer_access_list("main").splitlines()[2:]

    assert lines[0] == f"user {CONSUMER}"
    assert all(line.startswith("topic read fleetcast/v1/main/") for line in lines[1:])
    assert len(lines) - 1 == sum("consumer" in kind.readers for kind in TABLE)
    assert f"user {CONSUMER}\ntopic deny fleetcast/v1/main/#\n" in access_list("main")


def test_the_users_that_the_list_names_are_no_nodes() -> None:
    users = {line.split()[1] for line in access_list("main").splitlines() if line.startswith("user ")}

    assert users <= RESERVED_NODES


@pytest.mark.parametrize("version", ["1", "1.2", "1.2.3.4", "01.2.3", "v1.2.3", "1.2.3-", "1.2.3-A", "1.2.3+x", "1.2.3\n", "-1.2.3", ""])
def test_what_is_no_version_is_refused(version: str) -> None:
    with pytest.raises(Refused) as refusal:
        check_version(version)

    assert refusal.value.code == Code.NAME_INVALID


def test_versions_are_ordered_by_number_and_a_candidate_comes_before_its_release() -> None:
    ordered = ["0.9.0", "0.10.0-rc.1", "0.10.0", "1.2.3", "1.10.0"]

    assert sorted(sorted(ordered), key=version_key) == ordered


def matches(pattern: str, topic: str) -> bool:
    levels, parts = pattern.split("/"), topic.split("/")
    return len(levels) == len(parts) and all(level in ("+", part) for level, part in zip(levels, parts, strict=True))
