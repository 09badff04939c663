"""Provide one valid instance of every document, for the AsyncAPI description and the golden vectors. Nothing here is real or secret."""

import numpy as np

from schemas.accuracy import Accuracy
from schemas.analytics_messages import Alert, Drift, DriftEvidence, Found, MergedWindow, SignalCounts, SignalDrift
from schemas.block_request import Range, Want
from schemas.bundle import ManifestBytes, ModelBundle, RolloutBytes, TrustBundle, TrustRoles, TrustTime
from schemas.bundle_file import Parcel
from schemas.codec import encode
from schemas.deployment_index import index_of
from schemas.deployments import DEFAULT, Deployment, Deployments, Envelope, Stage, in_order
from schemas.device_settings import DeviceSettings, LinkBudget
from schemas.document import Document
from schemas.enrolment import (
    AuthorityCertificate,
    Enrolled,
    EnrolmentRefused,
    EnrolmentRequest,
    Hello,
    Renewal,
    SealedRenewal,
    SignedStatement,
    Statement,
)
from schemas.hub_presence import HubPresence
from schemas.manifest import Block, File, Golden, Index, Joining, Limits, Manifest, Payload, Requirements, Tensor, Variant
from schemas.names import sha256
from schemas.receipt import Evidence, Receipt, SealedReceipt
from schemas.rice import pack
from schemas.rollout import Fallback, Gate, ReleaseRef, Rollout
from schemas.selectors import Requirement
from schemas.signals import Baseline, Privacy, Signal
from schemas.state import Finding, Profile, SettingsInForce, Slot, State, TelemetryBudget
from schemas.window import Window

NOON = 1_359_720_000  # 2013-02-01 12:00 UTC
_GRAPH = sha256(b"graph")
_GOLDEN = sha256(b"golden")
_BLOCK = Block(_GRAPH, 100_000, (Payload("zstd", sha256(b"graph, compressed"), 61_234),))

MANIFEST = Manifest(
    model="delay",
    version="1.2.0",
    created=NOON,
    description="Arrival delay of a departing flight, in minutes.",
    licence="Apache-2.0",
    parent=sha256(b"an earlier manifest"),
    inputs=(Tensor(name="features", datatype="FP32", shape=(-1, 2)),),
    outputs=(Tensor(name="minutes", datatype="FP32", shape=(-1, 1)),),
    variants=(
        Variant(
            name="fp32",
            requirements=Requirements(arch=("x86_64", "aarch64"), memory_bytes_min=64 * 2**20),
            files=(File(path="model.onnx", bytes=100_000, digest=_GRAPH, blocks=(_BLOCK,)),),
        ),
    ),
    golden=Golden(file=File(path="golden.npz", bytes=2_048, digest=_GOLDEN, blocks=(Block(_GOLDEN, 2_048),))),
    limits=Limits(latency_ms_max=50.0),
    baseline=Baseline(
        rows=26_000,
        blocks=31,
        signals=(
            Signal(
                name="wind_speed",
                kind="numeric",
                side="input",
                tensor="features",
                column=0,
                edges=(5.75, 11.5),
                counts=(8_000, 10_000, 7_900, 100),
                between=(0.25,),
            ),
            Signal(
                name="origin",
                kind="categorical",
                side="input",
                tensor="features",
                column=1,
                categories=("EWR", "JFK", "LGA"),
                counts=(9_000, 9_000, 8_000, 0),
            ),
        ),
    ),
    privacy=Privacy(epsilon=1.0, delta=1e-6, sigma2_numerator=1_250, sigma2_denominator=10, window_seconds=86_400),
)
MANIFEST_BYTES = encode(MANIFEST)
RELEASE = ReleaseRef("1.2.0", sha256(MANIFEST_BYTES))
ROLLOUT = Rollout(
    model="delay",
    serial=7,
    release=RELEASE,
    fallback=ReleaseRef("1.1.0", sha256(b"an earlier manifest")),
    state="running",
    stages=(5, 25, 100),
    stage=1,
    salt=bytes(range(16)),
    labels={"site": "airport"},
    gate=Gate(soak_seconds=3_600),
    started=NOON,
)
RECEIPT = Receipt(
    node="gate-17",
    sequence=3,
    at=NOON + 60,
    outcome="serving",
    model="delay",
    version="1.2.0",
    digest=RELEASE.digest,
    since=NOON + 50,
    evidence=Evidence(golden_error_max=0.02, golden_rows=64, load_ms=41.5, latency_ms=0.8, memory_bytes=48 * 2**20, bytes_received=63_282),
)
_DRIFT_SIGNAL = SignalDrift(
    name="wind_speed",
    p_value=1e-9,
    p_adjusted=2e-9,
    effect=1.75,
    size=1.8,
    direction="higher",
    alarm=True,
    evidence=8.4,
    since=NOON - 86_400,
    effect_since=1.5,
    size_since=1.55,
    direction_since="higher",
)
_COUNTS = SignalCounts(
    name="wind_speed", kind="numeric", edges=(5.75, 11.5), counts=(101, 240, 470, 2), expected=(249.8, 312.3, 246.7, 3.1)
)
_MERGED = MergedWindow(
    model="delay",
    version="1.2.0",
    cohort="nyc",
    start=NOON,
    seconds=86_400,
    windows=6,
    rows=812,
    noise_sd=27.4,
    epsilon=1.0,
    delta=1e-6,
    signals=(_COUNTS,),
)
_DRIFT = Drift(
    model="delay",
    version="1.2.0",
    cohort="nyc",
    start=NOON,
    seconds=86_400,
    windows=6,
    alarm=True,
    alpha=0.01,
    signals=(_DRIFT_SIGNAL,),
    alarm_kind="both",
    evidence=8.1,
    evidence_needed=3.3,
    streams=2,
    episode="raised",
    since=NOON - 86_400,
)
_ALERT = Alert(
    kind="drift",
    at=NOON + 90_000,
    model="delay",
    version="1.2.0",
    cohort="nyc",
    code="drift",
    text="delay 1.2.0 drifts in cohort nyc: wind_speed is higher by 1.80 sd (p 2e-09)",
    signals=(_DRIFT_SIGNAL,),
    since=NOON - 86_400,
    alarm_kind="both",
)
_FOUND = Found(alert=_ALERT, drift=_DRIFT, window=_MERGED)

_DEPLOYMENTS = Deployments(
    model="delay",
    serial=12,
    expires=NOON + 7 * 86_400,
    deployments=tuple(
        in_order(
            [
                Deployment(name=DEFAULT, release=RELEASE, state="done", rollout=bytes(16), started=NOON),
                Deployment(
                    name="airports",
                    priority=10,
                    selector=(Requirement("site", "in", ("airport",)),),
                    release=RELEASE,
                    fallback=ReleaseRef("1.1.0", sha256(b"before")),
                    state="running",
                    rollout=bytes(range(16)),
                    stages=(Stage(25), Stage(100)),
                    threshold=2**62,
                    started=NOON,
                ),
            ]
        )
    ),
)

_AT_AIRPORTS = _DEPLOYMENTS.model_copy(update={"model": "gate", "deployments": _DEPLOYMENTS.deployments[:1]})

_SIGNATURE = b"0E\x02!\x00" + bytes(32) + b"\x02 " + bytes(32)
STATEMENT = Statement(fleet="plant", nonce=sha256(b"drawn by the device"), at=NOON)
RENEWAL = Renewal(node="gate-17", statement=encode(STATEMENT), statement_signature=_SIGNATURE, request=b"0\x81\xc7 (PKCS #10)")

EXAMPLES: tuple[Document, ...] = (
    MANIFEST,
    Index(blocks=(_BLOCK,)),
    ROLLOUT,
    TrustBundle(
        roots=(b'{"signatures":[],"signed":{"_type":"root"}}',),
        timestamp=b'{"signatures":[],"signed":{"_type":"timestamp"}}',
        snapshot=b'{"signatures":[],"signed":{"_type":"snapshot"}}',
        targets=b'{"signatures":[],"signed":{"_type":"targets"}}',
        rollouts=b'{"signatures":[],"signed":{"_type":"targets"}}',
        documents=(RolloutBytes("delay", encode(ROLLOUT)),),
    ),
    TrustTime(timestamp=b'{"signatures":[],"signed":{"_type":"timestamp"}}'),
    TrustRoles(
        roots=(b'{"signatures":[],"signed":{"_type":"root"}}',),
        timestamp=b'{"signatures":[],"signed":{"_type":"timestamp"}}',
        snapshot=b'{"signatures":[],"signed":{"_type":"snapshot"}}',
        targets=b'{"signatures":[],"signed":{"_type":"targets"}}',
    ),
    _DEPLOYMENTS,
    index_of([_DEPLOYMENTS, _AT_AIRPORTS], root=1, targets=3),
    Envelope(key=sha256(b"the rollouts key"), signature=bytes(range(64)), payload=encode(_DEPLOYMENTS)),
    ModelBundle(model="delay", role=b'{"signatures":[],"signed":{"_type":"targets"}}', manifests=(ManifestBytes("1.2.0", MANIFEST_BYTES),)),
    Parcel(fleet="plant", model="delay", version="1.2.0", release=RELEASE.digest, at=NOON, blocks=1, bytes=61_234, node="gate-17"),
    Want(release=RELEASE.digest, variant="fp32", ranges=(Range(0, 1),), encodings=("raw", "zstd")),
    State(
        node="gate-17",
        session=12,
        status="online",
        at=NOON,
        software="fleetcast 0.1.0",
        public_key=b"0Y0\x13\x06\x07*\x86H\xce=",
        cohort="nyc",
        profile=Profile(arch="x86_64", cores=2, memory_bytes=2**30, providers=("CPUExecutionProvider",), labels={"site": "airport"}),
        packet_bytes_max=2 * 2**20,
        root_version=1,
        timestamp_version=40,
        slots=(
            Slot(
                model="delay",
                state="active",
                serving=RELEASE.digest,
                serving_version="1.2.0",
                bytes_planned=63_282,
                bytes_received=63_282,
            ),
        ),
        telemetry=TelemetryBudget(rho_spent=0.25, rho_day_max=1.0, windows_waiting=1),
    ),
    DeviceSettings(
        node="gate-17",
        serial=4,
        expires=NOON + 7 * 86_400,
        labels={"ring": "canary"},
        cohort="nyc",
        telemetry=False,
        display_name="Gate 17, north",
        budgets={"metered": LinkBudget(bytes_day_max=2_000_000, hours="22:00-05:00")},
    ),
    HubPresence(run=bytes(range(16)), place=sha256(b"/srv/plant"), host="hub.example", pid=812, since=NOON, beat=7),
    RECEIPT,
    SealedReceipt(body=encode(RECEIPT), signature=b"0E\x02!\x00" + bytes(32) + b"\x02 " + bytes(32)),
    Window(
        id=bytes(range(16)),
        release=RELEASE.digest[:8],
        start=NOON,
        seconds=86_400,
        rows=812,
        counts=bytes([3, 250, 1, 2, 0, 255, 7, 128]) + (1_000).to_bytes(4, "little"),
    ),
    _COUNTS,
    _MERGED,
    _DRIFT_SIGNAL,
    _DRIFT,
    _ALERT,
    _FOUND,
    DriftEvidence(id=f"plant.17.{_ALERT.at}", fleet="plant", model="delay", at=_ALERT.at + 60, findings=(_FOUND,)),
    AuthorityCertificate(certificate=b"0\x82\x01\x9a (X.509)", root=sha256(b"the first root")),
    Hello(nonce=STATEMENT.nonce),
    STATEMENT,
    SignedStatement(body=encode(STATEMENT), signature=_SIGNATURE, issuer=b"0\x82\x01\xb2 (X.509)"),
    EnrolmentRequest(secret=bytes(32), request=RENEWAL.request),
    RENEWAL,
    SealedRenewal(body=encode(RENEWAL), signature=_SIGNATURE),
    Enrolled(
        fleet="plant",
        node="gate-17",
        certificate=b"0\x82\x01\xa1 (X.509)",
        issuer=b"0\x82\x01\xb2 (X.509)",
        authority=b"0\x82\x01\x9a (X.509)",
        broker="mqtts://broker.example:8883",
        cohort="nyc",
        labels={"site": "airport"},
        root=b'{"signatures":[],"signed":{"_type":"root"}}',
        trust=b"(\xb5/\xfd (an encoded trust bundle)",
    ),
    EnrolmentRefused(code="enrolment.token", reason="the token for node 'gate-17' was used already, by another device's key"),
)

# A release whose sites learn later what was right: its reference, a window of right and wrong answers, and the results.
_ACCURACY = MANIFEST.model_copy(
    update={
        "version": "1.3.0",
        "accuracy": Accuracy(
            baseline=Baseline(
                rows=26_000,
                blocks=31,
                autocorrelation=0.1,
                signals=(
                    Signal(
                        name="accuracy",
                        kind="numeric",
                        side="output",
                        tensor="accuracy",
                        edges=(0.5,),
                        counts=(2_600, 23_400, 0),
                        between=(0.01, 0.0, 0.0, 0.0),
                    ),
                ),
            ),
            privacy=Privacy(epsilon=0.5, delta=1e-6, sigma2_numerator=4_160, sigma2_denominator=64, window_seconds=86_400),
        ),
    }
)
_SIZED = _DRIFT_SIGNAL.model_copy(
    update={
        "size": 1.75,
        "size_low": 1.52,
        "size_high": 1.98,
        "size_unit": "sd",
        "size_since": 1.5,
        "size_since_low": 1.35,
        "size_since_high": 1.66,
        "size_since_unit": "sd",
    }
)
_LABEL = SignalDrift(
    name="label",
    p_value=0.6,
    p_adjusted=1.0,
    effect=0.0,
    size=0.0,
    direction="shape",
    size_low=0.0,
    size_high=0.071,
    size_unit="share",
    too_small=True,
)
_WORSE = SignalDrift(
    name="accuracy",
    p_value=1e-8,
    p_adjusted=1e-8,
    effect=-0.52,
    size=0.52,
    direction="lower",
    evidence=6.2,
    since=NOON - 86_400,
    effect_since=-0.49,
    size_since=0.49,
    direction_since="lower",
)

# Further messages by name: those about accuracy, an interval without drift, and alerts of other kinds.
MORE_EXAMPLES: tuple[tuple[str, Document], ...] = (
    (
        "joining",
        MANIFEST.model_copy(
            update={
                "variants": (
                    MANIFEST.variants[0].model_copy(
                        update={"joining": Joining(together=True, tried=("graph", "alone", "permuted", "floats times 1e4"))}
                    ),
                    MANIFEST.variants[0].model_copy(
                        update={
                            "name": "int8",
                            "joining": Joining(
                                together=False, tried=("graph",), found="DynamicQuantizeLinear is not known to keep rows apart"
                            ),
                        }
                    ),
                )
            }
        ),
    ),
    (
        "findings",
        State(
            node="gate-17",
            session=13,
            status="online",
            at=NOON,
            software="fleetcast 0.1.0+g1a2b3c4d5",
            findings=(
                Finding(
                    kind="rollout",
                    model="delay",
                    code="schema.unsupported",
                    reason="rollout of delay: the sender wrote rollout/2 and the receiver reads rollout/1: "
                    "upgrade fleetcast at the receiver",
                ),
                Finding(kind="site", code="settings.invalid", reason="link_file has 'Metred'"),
            ),
        ),
    ),
    (
        "settings",
        State(
            node="gate-17",
            session=14,
            status="online",
            at=NOON,
            settings=SettingsInForce(serial=4, display_name="Gate 17, north", ignored=("telemetry",)),
        ),
    ),
    (
        "fallbacks",
        Rollout(
            model="delay",
            serial=9,
            release=RELEASE,
            state="running",
            stages=(25, 100),
            salt=bytes(range(16)),
            labels={},
            fallbacks=(
                Fallback(labels={"ring": "canary"}, release=ReleaseRef("1.1.0", sha256(b"for canaries")), parameters={"threshold": 0.7}),
                Fallback(labels={}, release=ReleaseRef("1.0.0", sha256(b"for all others"))),
            ),
            started=NOON,
        ),
    ),
    ("older_counts", RECEIPT.model_copy(update={"evidence": Evidence(shadow_rows=733, shadow_agreement=0.96)})),
    ("compared", RECEIPT.model_copy(update={"evidence": Evidence(latency_ms=0.8, shadow="passed")})),
    ("accuracy", _ACCURACY),
    (
        "accuracy",
        Window(
            id=bytes(range(16, 32)),
            release=sha256(encode(_ACCURACY))[:8],
            start=NOON - 12 * 3600,
            seconds=86_400,
            rows=740,
            packed=pack(np.array([40, -39, 1])),
            about="accuracy",
        ),
    ),
    (
        "accuracy",
        MergedWindow(
            model="delay",
            version="1.3.0",
            cohort="nyc",
            start=NOON - 12 * 3600,
            seconds=86_400,
            windows=6,
            rows=740,
            noise_sd=19.9,
            epsilon=0.5,
            delta=1e-6,
            signals=(SignalCounts(name="accuracy", kind="numeric", edges=(0.5,), counts=(191, 553, -4), expected=(74.0, 666.0, 0.0)),),
            about="accuracy",
        ),
    ),
    (
        "accuracy",
        Drift(
            model="delay",
            version="1.3.0",
            cohort="nyc",
            start=NOON - 12 * 3600,
            seconds=86_400,
            windows=6,
            alarm=True,
            alpha=0.01,
            signals=(_WORSE,),
            alarm_kind="both",
            evidence=6.2,
            evidence_needed=3.3,
            streams=2,
            episode="raised",
            since=NOON - 86_400,
            about="accuracy",
        ),
    ),
    (
        "accuracy",
        Alert(
            kind="drift",
            at=NOON + 21 * 86_400,
            model="delay",
            version="1.3.0",
            cohort="nyc",
            code="drift",
            text="delay 1.3.0 drifts in cohort nyc: accuracy is lower by 0.52 sd (p 1e-08); 74 % of answers right, 90 % in the reference",
            signals=(_WORSE,),
            since=NOON - 86_400,
            alarm_kind="both",
            about="accuracy",
        ),
    ),
    (
        "quiet",
        Drift(
            model="delay",
            version="1.2.0",
            cohort="nyc",
            start=NOON - 3 * 86_400,
            seconds=86_400,
            windows=6,
            alarm=False,
            alpha=0.01,
            signals=(
                SignalDrift(name="wind_speed", p_value=0.41, p_adjusted=0.82, effect=0.04, size=0.0, direction="shape", evidence=-0.3),
            ),
            evidence=-0.2,
            evidence_needed=3.3,
            streams=2,
        ),
    ),
    ("sizes", _DRIFT.model_copy(update={"signals": (_SIZED, _LABEL)})),
    (
        "drift_over",
        Alert(
            kind="drift_over",
            at=NOON + 10 * 86_400,
            model="delay",
            version="1.2.0",
            cohort="nyc",
            code="drift.over",
            text="delay 1.2.0 no longer drifts in cohort nyc",
        ),
    ),
    (
        "rollout_halted",
        Alert(
            kind="rollout_halted",
            at=NOON + 4000,
            model="delay",
            code="halted",
            text="rollout of delay 1.2.0 halted at 10 %: 3 of 20 nodes refused it or rolled back, at most 5% may",
        ),
    ),
    (
        "node_silent",
        Alert(
            kind="node_silent",
            at=NOON + 5000,
            node="gate-17",
            cohort="nyc",
            code="silent",
            text="node gate-17 was not heard from for 3600 s",
        ),
    ),
)
