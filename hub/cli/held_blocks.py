"""Which blocks a node holds, by what it reported: the same for all nodes alike, and reckoned once."""

from contextlib import suppress

from hub.core.rollouts.plan import Cost, cost
from hub.service.rollouts.release_lookup import Releases
from schemas.errors import Refused
from schemas.state import State
from schemas.variant_choice import choose

Held = frozenset[tuple[bytes, str]]  # release digest and variant


class Holdings:
    """Reckons for the nodes of a fleet."""

    def __init__(self, releases: Releases) -> None:
        self._releases = releases
        self._blocks: dict[Held, frozenset[bytes]] = {}
        self._costs: dict[tuple[bytes, str, Held, bool], Cost] = {}

    def releases_of(self, state: State) -> Held:
        """Return the releases that are whole on a node's disk: what it serves, and what it would go back to."""
        if state.profile is None:
            return frozenset()
        found: set[tuple[bytes, str]] = set()
        served = {slot.serving: slot.variant for slot in state.slots if slot.serving is not None and slot.variant is not None}
        for digest in {digest for slot in state.slots for digest in (slot.serving, slot.last_good) if digest is not None}:
            try:
                manifest = self._releases.find(digest)[1]
                said = served.get(digest)  # its profile may have been another when it chose
                known = said is not None and any(variant.name == said for variant in manifest.variants)
                found.add((digest, said if said is not None and known else choose(manifest, state.profile).name))
            except Refused:  # The release is of another hub: it may share blocks with ours, but this hub cannot know.
                continue
        return frozenset(found)

    def cost_of(self, digest: bytes, variant: str, held: Held, *, follows: bool) -> Cost:
        """Return the blocks of this variant that a node with these fetches."""
        key = (digest, variant, held, follows)
        if key not in self._costs:
            lists = self._releases.lists(digest, variant)
            here = self.blocks_of(held)
            self._costs[key] = cost(lists.blocks, lists.index, here.__contains__, follows=follows)
        return self._costs[key]

    def blocks_of(self, held: Held) -> frozenset[bytes]:
        """Return the digests of all their blocks, block lists included."""
        if held not in self._blocks:
            found: set[bytes] = set()
            for digest, variant in held:
                with suppress(Refused):  # The block list is gone with a release that was removed: what it had in common is unknown.
                    lists = self._releases.lists(digest, variant)
                    found |= {block.digest for block in (*lists.blocks, *lists.index)}
            self._blocks[held] = frozenset(found)
        return self._blocks[held]
