"""A mosquitto as nodes find it at the end of a road that is slow, breaks or stalls."""

from bench.roads import Road, Weather
from fleetcast.mqtt_connection import TlsFiles
from tests.brokers import Broker, Mosquitto


class Behind:
    """A broker as it is found at the end of a road."""

    kind = "mosquitto"

    def __init__(self, broker: Mosquitto, weather: Weather, seed: int = 0) -> None:
        self.broker, self.road = broker, Road(broker.port, weather, seed=seed)

    def url(self, user: str = "hub") -> str:
        return self.broker.url(user).replace(str(self.broker.port), str(self.road.port))

    def tls(self, user: str = "hub") -> TlsFiles:
        return self.broker.tls(user)


def behind(broker: Broker, roads: list[Road], weather: Weather, seed: int = 0) -> Behind:
    """A road to a broker, kept in `roads`, which closes it at the end of the test."""
    assert isinstance(broker, Mosquitto)
    found = Behind(broker, weather, seed)
    roads.append(found.road)
    return found
