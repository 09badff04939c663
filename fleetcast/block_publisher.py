"""Publish blocks on a connection to a broker: what the hub has in common with a relay."""

from fleetcast.mqtt_connection import Link
from schemas.topics import Topics


class BlockPublisher:
    """Publish blocks, and clear them from the broker's memory."""

    topics: Topics
    _link: Link

    def publish_block(self, digest: bytes, payload: bytes, *, retain: bool, expiry_seconds: int) -> int:
        """Publish a payload; `Published` with the returned id follows.

        Raises:
            Unreachable: too much waits already.
        """
        return self._link.publish(self.topics.block(digest), payload, retain=retain, expiry_seconds=expiry_seconds)

    def clear_block(self, digest: bytes) -> None:
        """Take a payload out of the broker's memory."""
        self._link.publish(self.topics.block(digest), b"", retain=True)
