"""The proxy that is as strict as AWS IoT Core ends what breaks a limit, and lets pass what keeps to it."""

from pathlib import Path

import pytest

from tests.broker import served
from tests.broker.asked import Asker
from tests.strict_broker import PAYLOAD_BYTES_MAX, StrictProxy


def test_each_limit_is_held_and_what_keeps_to_it_passes(tmp_path: Path) -> None:
    broker = served.PlainMosquitto(tmp_path)
    broker.start()
    proxy = StrictProxy(broker.port)
    try:
        good = Asker(proxy.port, "good")
        good.open()
        for at in range(0, 48, 8):
            good.subscribe(*[f"a/{number}" for number in range(at, at + 8)])
        good.publish("a/1", bytes(PAYLOAD_BYTES_MAX))
        assert len(good.messages(1)) == 1
        assert proxy.broken == []
        good.leave()
        for number, (what, breach) in enumerate(
            [
                ("9 filters in one SUBSCRIBE", lambda one: one.subscribe(*[f"a/{at}" for at in range(9)])),
                ("51 subscriptions", lambda one: [one.subscribe(f"a/{at}") for at in range(51)]),
                ("payload of 131073 bytes", lambda one: one.publish("a", bytes(PAYLOAD_BYTES_MAX + 1))),
                ("topic with 8 slashes", lambda one: one.publish("/".join("a" * 9))),
                ("publishes in a second", lambda one: one.publish_all(["a"] * 150)),
                ("bytes in a second", lambda one: [one.publish("a", bytes(PAYLOAD_BYTES_MAX)) for _ in range(5)]),
                ("subscription identifier", lambda one: one.subscribe("a", identifier=1)),
                ("QoS 2", lambda one: (one.paho.publish("a", b"", qos=2), one.wait("published"))),
            ]
        ):
            client = Asker(proxy.port, f"bad-{number}")
            client.open()
            with pytest.raises(TimeoutError):
                breach(_hasty(client))
            client.close()
            assert what in proxy.broken[-1], what
            assert len(proxy.broken) == number + 1
    finally:
        proxy.close()
        broker.stop()


def _hasty(client: Asker) -> Asker:
    """Whose waits end with the connection."""
    wait = client.wait

    def hastily(kind: str, seconds: float = 15.0) -> object:
        found = client.answers.get(timeout=seconds)
        if found[0] == "disconnected":
            raise TimeoutError
        if found[0] == kind:
            return found[1]
        return wait(kind, seconds)

    client.wait = hastily  # type: ignore[method-assign]
    return client
