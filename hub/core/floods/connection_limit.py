"""Decides which open connection has to go for a new one: their number is limited, as a whole and by address. Knows no socket and no clock.

The oldest goes that is not kept: a device needs a connection for a second or two, so an old one is most likely silent. Past the bound on
all of them it is the oldest of the address that has most, so that one address cannot use up what others need.
"""

from collections import OrderedDict
from ipaddress import IPv6Address, ip_address

SITE_PREFIX_BITS = 64  # an IPv6 site that has one address of these has them all


class Doorkeeper:
    """Count the connections that are open, by number, each of an address."""

    def __init__(self) -> None:
        self._origins: dict[int, str] = {}
        self._open: dict[str, OrderedDict[int, None]] = {}
        self._kept = set[int]()

    def __len__(self) -> int:
        return len(self._origins)

    def enter(self, number: int, address: str, *, connections_max: int, address_max: int) -> list[int]:
        """Count a connection, and return those that have to go for it."""
        origin = origin_of(address)
        self._origins[number] = origin
        mine = self._open.setdefault(origin, OrderedDict())
        mine[number] = None
        gone: list[int] = []
        while len(mine) > address_max:
            gone.append(self._oldest(mine))
            self.leave(gone[-1])
        while len(self._origins) > connections_max:
            crowd = max(self._open, key=lambda one: len(self._open[one]))
            gone.append(self._oldest(self._open[crowd]))
            self.leave(gone[-1])
        return gone

    def keep(self, number: int) -> None:
        """Let a connection go for no other one: it is known to be in use, and how many are is bounded elsewhere."""
        if number in self._origins:
            self._kept.add(number)

    def _oldest(self, those: OrderedDict[int, None]) -> int:
        return next((number for number in those if number not in self._kept), next(iter(those)))

    def leave(self, number: int) -> None:
        """Forget a connection that is closed, or has to go."""
        self._kept.discard(number)
        origin = self._origins.pop(number, None)
        if origin is None:
            return
        del self._open[origin][number]
        if not self._open[origin]:
            del self._open[origin]


def origin_of(address: str) -> str:
    """Return what counts as one address: an IPv4 address, or the network that a site has of IPv6."""
    try:
        found = ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if not isinstance(found, IPv6Address):
        return str(found)
    if found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    return f"{IPv6Address(int(found) >> SITE_PREFIX_BITS << SITE_PREFIX_BITS)}/{SITE_PREFIX_BITS}"
