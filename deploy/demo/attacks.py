"""Attack the fleet as a stranger on the broker can. The embedded broker lets any client publish anything, so nothing here is held back."""

import queue
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, TargetFile, Targets

from fleetcast.mqtt_connection import BrokerUrl, Connected, Link
from schemas import codec
from schemas.bundle import ManifestBytes, ModelBundle
from schemas.manifest import Block, Manifest
from schemas.topics import Topics
from schemas.window import Window, pack_counts


class Stranger:
    """Connect to the broker without any key of the fleet."""

    def __init__(self, port: int, topics: Topics) -> None:
        self._topics = topics
        inbox: queue.Queue[object] = queue.Queue()
        self._link = Link(BrokerUrl("127.0.0.1", port, tls=False), client_id="stranger", inbox=inbox, session_expiry_seconds=0)
        self._link.open()
        while not isinstance(inbox.get(timeout=10), Connected):
            pass

    def flip_blocks(self, blocks: list[Block], payloads: Path) -> int:
        """Retain, on the topics of blocks that nodes will want, their payloads with one bit flipped."""
        done = 0
        for block in blocks:
            for digest in {payload.digest for payload in block.payloads} or {block.digest}:
                found = next(payloads.rglob(digest.hex() + "*"), None)
                if found is not None:
                    damaged = bytearray(found.read_bytes())
                    damaged[len(damaged) // 2] ^= 1
                    self._link.publish(self._topics.block(digest), bytes(damaged), retain=True, expiry_seconds=60)
                    done += 1
        return done

    def forge_release(self, genuine: ModelBundle) -> None:
        """Retain a release of the attacker's own under the model's name, signed by a key without a delegation."""
        newest = max(genuine.manifests, key=lambda one: one.version)
        forged = codec.decode(Manifest, newest.document).model_copy(update={"version": "9.9.9", "description": "trust me"})
        document = codec.encode(forged)
        role = Metadata.from_bytes(genuine.role).signed
        path = f"models/{genuine.model}/9.9.9"
        targets = Targets(version=role.version, expires=datetime.now(UTC) + timedelta(days=30))
        targets.targets[path] = TargetFile.from_data(path, document, ["sha256"])
        metadata = Metadata(targets)
        metadata.sign(CryptoSigner.generate_ed25519())
        bundle = ModelBundle(model=genuine.model, role=metadata.to_bytes(), manifests=(ManifestBytes("9.9.9", document),))
        self._link.publish(self._topics.model(genuine.model), codec.encode(bundle), retain=True)

    def replay(self, topic: str, payload: bytes) -> None:
        """Replay what was genuine before."""
        self._link.publish(topic, payload, retain=True)

    def absurd_window(self, model: str, cohort: str, release: bytes, start: int, bins: int) -> None:
        """Send a window that claims a million rows in one bin of every signal."""
        counts = [1_000_000_000] * bins
        window = Window(
            id=bytes(range(16)), release=release[:8], start=start, seconds=86400, rows=1000, counts=pack_counts(counts, [0] * bins)
        )
        self._link.publish(self._topics.telemetry(model, cohort), codec.encode(window))

    def leave(self) -> None:
        """Disconnect."""
        time.sleep(1)
        self._link.close()
