"""Define classes of links: what a road carries, how late, how much of it is lost, how often it breaks, and what it costs.

The figures are assumptions, below the peaks of the standards: LTE-M (Cat-M1, half duplex), NB-IoT (Cat-NB1 and NB2), a narrow satellite
channel of 88 kbit/s, a site's Wi-Fi. An operator who has measured a link puts own figures in their place.
"""

from dataclasses import dataclass
from math import sqrt
from typing import Final

from schemas.state import LinkClass

SEGMENT_BYTES: Final = 1400
MATHIS: Final = 1.22  # Mathis et al. 1997: TCP keeps at most SEGMENT / RTT x 1.22 / sqrt(loss).


@dataclass(frozen=True, slots=True)
class Link:
    """Describe one class of link. `spread` is the standard deviation of the logarithm of the rate, between nodes."""

    name: str
    rate_bit_s: float
    latency_seconds: float  # One way.
    loss: float = 0.0  # Share of packets that are lost, and sent again by TCP.
    spread: float = 0.0
    drops_per_day: float = 0.0  # Connections that break, for each day of connection.
    outage_seconds: float = 30.0  # Mean time until a broken connection is back.
    cost_class: LinkClass = "free"
    price_mb: float | None = None  # Price of 1,000,000 bytes, in any currency.

    def bytes_per_second(self, rate_bit_s: float) -> float:
        """Return what TCP carries on a link of this class whose own rate is this."""
        if not self.loss or not self.latency_seconds:
            return rate_bit_s / 8
        return min(rate_bit_s / 8, SEGMENT_BYTES / (2 * self.latency_seconds) * MATHIS / sqrt(self.loss))


CLASSES: Final = {
    one.name: one
    for one in (
        Link("lte-m", 300e3, 0.1, loss=0.005, spread=0.4, drops_per_day=6, outage_seconds=60, cost_class="metered"),
        Link("nb-iot", 50e3, 1.5, loss=0.005, spread=0.5, drops_per_day=6, outage_seconds=120, cost_class="metered"),
        Link("satellite", 88e3, 0.8, loss=0.01, spread=0.2, drops_per_day=24, outage_seconds=120, cost_class="roaming"),
        Link("wifi", 20e6, 0.02, loss=0.001, spread=0.6, drops_per_day=4, outage_seconds=20, cost_class="free"),
        Link("ethernet", 50e6, 0.01, spread=0.2, drops_per_day=0.2, outage_seconds=20, cost_class="free"),
    )
}
