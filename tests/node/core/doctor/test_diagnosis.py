"""Every finding is found by its own fact and by nothing else, and a node that is well has none."""

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.core.doctor.agent_health import AgentStatus, WorkerProcess
from node.core.doctor.diagnosis import Certificate, Facts, Folder, Login, Road, Served, diagnose
from node.core.doctor.findings import TABLE, Trouble
from node.core.trust.clock import BUILD_TIME
from schemas.errors import Code
from schemas.state import Finding as Sent
from schemas.state import Slot

DAY = 86_400
NOW = BUILD_TIME + 400 * DAY
MIB = 1024 * 1024
OPERATIONS = Path(__file__).parents[4] / "docs" / "operations.md"

FOLDER = Folder("/var/lib/node", free_bytes=1000 * MIB, free_files=1000, used_bytes=50 * MIB, bytes_max=100 * MIB, largest_bytes=30 * MIB)
CERTIFICATE = Certificate("gw-1.crt", name="gw-1", not_before=NOW - 30 * DAY, not_after=NOW + 60 * DAY)
ROAD = Road("mqtts://broker:8883", not_before=NOW - 100 * DAY, not_after=NOW + 100 * DAY)
LOGIN = Login(topic="fleetcast/v1/f/trust", arrived=True)
STATUS = AgentStatus(
    node="gw-1",
    fleet="f",
    pid=7,
    software="fleetcast 1",
    started_at=NOW - 1000,
    written_at=NOW - 5,
    answered_at=NOW - 6,
    listen="inherited socket 3",
    online=True,
    since=NOW - 900,
    root_version=1,
    expires=NOW + 20 * 3600,
    slots=(Slot(model="m", state="active", serving=bytes(32), serving_version="1.0.0"),),
    workers=(WorkerProcess(digest=bytes(32), pid=8),),
    supervised=True,
    inherited=True,
    watchdog_seconds=180.0,
)
SERVED = Served("m", "1.0.0", "onnx", memory_bytes=100 * MIB, memory_bytes_max=200 * MIB)
WELL = Facts(
    NOW,
    node="gw-1",
    folder=FOLDER,
    clock_floor=NOW - DAY,
    certificate=CERTIFICATE,
    road=ROAD,
    running=True,
    status=STATUS,
    served=(SERVED,),
    runtimes=("files", "onnx"),
    memory_bytes=512 * MIB,
)
ALONE = replace(WELL, running=False, status=None, login=LOGIN)


def folder(**changes: Any) -> Facts:
    return replace(WELL, folder=replace(FOLDER, **changes))


def certificate(**changes: Any) -> Facts:
    return replace(WELL, certificate=replace(CERTIFICATE, **changes))


def road(failed: Literal["resolve", "refused", "timed_out", "unreachable", "tls"], **changes: Any) -> Facts:
    return replace(ALONE, login=None, road=Road(ROAD.broker, failed=failed, error="why", **changes))


def login(**changes: Any) -> Facts:
    return replace(ALONE, login=replace(LOGIN, **changes))


def agent(**changes: Any) -> Facts:
    return replace(WELL, status=STATUS.model_copy(update=changes))


KEY_FINDING = Sent(kind="settings", code=str(Code.RECEIPT_KEY_CHANGED), reason="the hub knows another key of gw-1")
CASES: list[tuple[Facts, Trouble]] = [
    (Facts(NOW, settings_error="node.toml: id: Field required"), Trouble.SETTINGS_INVALID),
    (folder(write_error="Read-only file system"), Trouble.FOLDER_NOT_WRITABLE),
    (folder(mode=0o755), Trouble.FOLDER_OPEN),
    (folder(trust_gone=True), Trouble.FOLDER_TRUST),
    (folder(open_keys=("gw-1.key",)), Trouble.KEY_OPEN),
    (agent(findings=(KEY_FINDING,)), Trouble.KEY_REFUSED),
    (folder(key_error="damaged"), Trouble.KEY_UNREADABLE),
    (folder(store_error="file is not a database"), Trouble.STORE_UNREADABLE),
    (folder(damaged="/d/node.sqlite.damaged"), Trouble.STORE_SET_ASIDE),
    (folder(free_bytes=MIB), Trouble.DISK_FULL),
    (folder(free_files=0), Trouble.DISK_FULL),
    (folder(free_bytes=20 * MIB), Trouble.DISK_LOW),
    (folder(used_bytes=95 * MIB), Trouble.DISK_QUOTA),
    (replace(WELL, now=100, certificate=None, road=None, status=None), Trouble.CLOCK_NOT_SET),
    (replace(WELL, clock_floor=NOW + 2 * DAY), Trouble.CLOCK_BEHIND),
    (replace(ALONE, now=BUILD_TIME + 31 * 365 * DAY, certificate=None, road=None, login=None), Trouble.CLOCK_AHEAD),
    (replace(WELL, root_error="root.json: No such file or directory", root_missing=True), Trouble.ROOT_UNREADABLE),
    (replace(WELL, root_error="root.json: not TUF metadata"), Trouble.ROOT_INVALID),
    (login(refused=Code.TRUST_SIGNATURE, refusal="root was signed by 0/2 keys"), Trouble.ROOT_OTHER_FLEET),
    (agent(root_version=0, expires=None, error="root was signed by 0/2 keys [trust.signature]"), Trouble.ROOT_OTHER_FLEET),
    (agent(expires=NOW - 1), Trouble.METADATA_STALE),
    (login(refused=Code.TRUST_EXPIRED, refusal="timestamp.json is expired"), Trouble.METADATA_STALE),
    (agent(expires=NOW + 3600), Trouble.METADATA_EXPIRING),
    (login(refused=Code.TRUST_MISMATCH, refusal="snapshot"), Trouble.METADATA_REFUSED),
    (certificate(error="gw-1.crt: No such file"), Trouble.CERTIFICATE_UNREADABLE),
    (certificate(not_after=NOW - 1), Trouble.CERTIFICATE_EXPIRED),
    (certificate(not_before=NOW + 1), Trouble.CERTIFICATE_NOT_YET),
    (certificate(not_after=NOW + DAY), Trouble.CERTIFICATE_EXPIRING),
    (certificate(name="gw-2"), Trouble.CERTIFICATE_NAME),
    (certificate(key_error="key values mismatch"), Trouble.CERTIFICATE_KEY),
    (certificate(ca_error="ca.crt: No such file"), Trouble.CA_UNREADABLE),
    (road("resolve"), Trouble.DNS_UNRESOLVED),
    (road("refused"), Trouble.TCP_REFUSED),
    (road("timed_out"), Trouble.TCP_TIMED_OUT),
    (road("unreachable"), Trouble.TCP_UNREACHABLE),
    (road("tls", tls=Trouble.TLS_EXPIRED), Trouble.TLS_EXPIRED),
    (road("tls", tls=Trouble.TLS_NOT_YET), Trouble.TLS_NOT_YET),
    (road("tls", tls=Trouble.TLS_WRONG_CA), Trouble.TLS_WRONG_CA),
    (road("tls", tls=Trouble.TLS_WRONG_NAME), Trouble.TLS_WRONG_NAME),
    (road("tls", tls=Trouble.TLS_REFUSED), Trouble.TLS_REFUSED),
    (road("tls"), Trouble.TLS_FAILED),
    (replace(WELL, road=replace(ROAD, not_after=NOW + DAY)), Trouble.TLS_EXPIRING),
    (login(failed="silent", error="why"), Trouble.BROKER_SILENT),
    (login(failed="refused", error="why"), Trouble.BROKER_REFUSES),
    (login(failed="denied", error="why"), Trouble.BROKER_DENIES),
    (agent(denied=2), Trouble.BROKER_DENIES),
    (login(arrived=False), Trouble.BROKER_EMPTY),
    (agent(root_version=0, expires=None), Trouble.BROKER_EMPTY),
    (agent(online=False, reason="Session taken over"), Trouble.BROKER_TAKEN_OVER),
    (agent(findings=(Sent(kind="rollout", model="delay", code="schema.unsupported", reason="why"),)), Trouble.DOCUMENT_REFUSED),
    (agent(findings=(Sent(kind="site", code="settings.invalid", reason="link_file has 'Metred'"),)), Trouble.SITE_FILE),
    (agent(online=False, reason="Unspecified error", short_connections=4), Trouble.BROKER_SHORT),
    (agent(reason="Unspecified error", ended_connections=4), Trouble.BROKER_SHORT),
    (replace(WELL, runtimes=("files",)), Trouble.RUNTIME_ABSENT),
    (replace(WELL, unloadable={"llama": "libgomp.so.1 is not installed"}), Trouble.RUNTIME_UNLOADABLE),
    (replace(WELL, memory_bytes=150 * MIB), Trouble.MEMORY_SHORT),
    (replace(WELL, served=(replace(SERVED, memory_bytes_max=1024 * MIB),)), Trouble.MEMORY_LIMITS),
    (replace(ALONE, port_error="in use", port_taken=True), Trouble.PORT_IN_USE),
    (replace(ALONE, port_error="cannot assign requested address"), Trouble.PORT_UNUSABLE),
    (replace(WELL, running=False), Trouble.AGENT_DIED),
    (agent(written_at=NOW - 1000, answered_at=NOW - 1000), Trouble.AGENT_SILENT),
    (agent(node="gw-2"), Trouble.AGENT_OTHER),
    (agent(answered_at=NOW - 1000), Trouble.SERVING_SILENT),
    (agent(workers=()), Trouble.SERVING_NOTHING),
    (agent(workers=(), slots=(STATUS.slots[0].model_copy(update={"code": "disk.damaged"}),)), Trouble.SERVING_DAMAGED),
    (agent(inherited=False), Trouble.SERVICE_NO_SOCKET),
    (agent(watchdog_seconds=None), Trouble.SERVICE_NO_WATCHDOG),
]


LOADING = agent(workers=(), started_at=NOW - 60)
REPLACED = agent(workers=(WorkerProcess(digest=bytes(32)),))  # its worker has died, and another one is being started


@pytest.mark.parametrize(
    "facts", [WELL, ALONE, Facts(NOW), replace(ALONE, login=None), agent(supervised=False, inherited=False), LOADING, REPLACED]
)
def test_a_node_that_is_well_has_no_finding(facts: Facts) -> None:
    assert diagnose(facts) == []


@pytest.mark.parametrize(("facts", "code"), CASES, ids=[f"{code}-{at}" for at, (_, code) in enumerate(CASES)])
def test_one_wrong_fact_is_one_finding(facts: Facts, code: Trouble) -> None:
    assert [finding.code for finding in diagnose(facts)] == [code]


def test_every_code_has_a_case_a_mend_and_a_line_in_the_manual() -> None:
    manual = OPERATIONS.read_text()

    assert {code for _, code in CASES} == set(Trouble) == set(TABLE)
    assert [code for code in Trouble if f"| `{code}` | {TABLE[code][0]} |" not in manual] == []


def test_a_clock_far_ahead_is_reported_beside_the_certificates_it_expires() -> None:
    facts = replace(ALONE, now=NOW + 1000 * DAY, road=Road(ROAD.broker, "tls", "certificate has expired", Trouble.TLS_EXPIRED))

    assert {finding.code for finding in diagnose(facts)} == {Trouble.CLOCK_AHEAD, Trouble.CERTIFICATE_EXPIRED, Trouble.TLS_EXPIRED}


def test_a_stale_word_of_the_agent_gives_way_to_what_the_broker_has_now() -> None:
    facts = replace(WELL, status=STATUS.model_copy(update={"online": False, "expires": NOW - 1}), login=LOGIN)

    assert diagnose(facts) == []


def test_memory_counts_the_largest_twice_because_both_are_loaded_in_a_switch() -> None:
    served = (SERVED, replace(SERVED, model="n", memory_bytes=60 * MIB))

    fits = diagnose(replace(WELL, served=served, memory_bytes=400 * MIB))
    short = diagnose(replace(WELL, served=served, memory_bytes=259 * MIB))

    assert (fits, [finding.code for finding in short]) == ([], [Trouble.MEMORY_SHORT])


def mixed(left: Facts, right: Facts) -> Facts:
    """What is wrong with either, as far as they differ from a node that is well."""
    fields = {name: getattr(right, name) for name in Facts.__slots__ if getattr(right, name) != getattr(WELL, name)}
    return replace(left, **fields)


@given(st.lists(st.sampled_from([facts for facts, _ in CASES]), min_size=1, max_size=4), st.integers(0, 2**40))
def test_whatever_is_wrong_at_once_is_told_without_an_error_and_troubles_first(wrong: list[Facts], now: int) -> None:
    facts = wrong[0]
    for one in wrong[1:]:
        facts = mixed(facts, one)

    found = diagnose(replace(facts, now=now))

    levels = [finding.level for finding in found]
    assert levels == sorted(levels, key=("trouble", "warning").index)
    assert all(finding.what and finding.mend for finding in found)


def touched(facts: Facts) -> set[str]:
    return {name for name in Facts.__slots__ if getattr(facts, name) != getattr(WELL, name)}


def test_a_served_model_whose_runtime_lacks_a_library_is_told_once_with_the_reason() -> None:
    (found,) = diagnose(replace(WELL, unloadable={SERVED.runtime: "libgomp.so.1 is not installed"}))

    assert found.code is Trouble.RUNTIME_ABSENT
    assert "libgomp.so.1 is not installed" in found.what


LOOSE = [case for case in CASES if not {"now", "login", "running", "clock_floor", "settings_error"} & touched(case[0])]
PAIRS = [(one, other) for one, other in itertools.combinations(LOOSE, 2) if not touched(one[0]) & touched(other[0])]
BEHIND = {Trouble.MEMORY_LIMITS: Trouble.MEMORY_SHORT}  # what is too small already is not told to be too small by its limits, too


def test_any_two_wrong_facts_that_do_not_touch_are_both_found() -> None:
    for (left, one), (right, other) in PAIRS:
        expected = [one] if BEHIND.get(other) is one else [one, other]

        assert expected == sorted((finding.code for finding in diagnose(mixed(left, right))), key=[one, other].index), (one, other)
