"""Which blocks a node holds, by what it reported: the same for all nodes alike, and reckoned once."""

from contextlib import suppress

from hub.core.rollouts.plan import Cost, cost
from hub.service.rollouts.release_lookup import Releases
from schemas.errors import Refused
from schemas.state import State
from schemas.variant_choice import choose

StoredReleases = frozenset[tuple[bytes, str]]  # release digest and variant


class NodeBlocks:
    """Work out the blocks and costs of a fleet's nodes, each case once."""

    def __init__(self, releases: Releases) -> None:
        self._releases = releases
        self._blocks: dict[StoredReleases, frozenset[bytes]] = {}
        self._costs: dict[tuple[bytes, str, StoredReleases, bool], Cost] = {}

    def releases_of(self, state: State) -> StoredReleases:
        """Return the releases that are whole on a node's disk: what it serves, and what it would go back to."""
        if state.profile is None:
            return frozenset()
        found: set[tuple[bytes, str]] = set()
        served = {slot.serving: slot.variant for slot in state.slots if slot.serving is not None and slot.variant is not None}
        for digest in {digest for slot in state.slots for digest in (slot.serving, slot.last_good) if digest is not None}:
            try:
                manifest = self._releases.find(digest)[1]
                reported = served.get(digest)  # its profile may have been another when it chose
                known = reported is not None and any(variant.name == reported for variant in manifest.variants)
                found.add((digest, reported if reported is not None and known else choose(manifest, state.profile).name))
            except Refused:  # The release is of another hub: it may share blocks with ours, but this hub cannot know.
                continue
        return frozenset(found)

    def cost_of(self, digest: bytes, variant: str, stored: StoredReleases, *, follows: bool) -> Cost:
        """Return the blocks of this variant that a node with these fetches."""
        key = (digest, variant, stored, follows)
        if key not in self._costs:
            lists = self._releases.lists(digest, variant)
            here = self.blocks_of(stored)
            self._costs[key] = cost(lists.blocks, lists.index, here.__contains__, follows=follows)
        return self._costs[key]

    def blocks_of(self, stored: StoredReleases) -> frozenset[bytes]:
        """Return the digests of all their blocks, block lists included."""
        if stored not in self._blocks:
            found: set[bytes] = set()
            for digest, variant in stored:
                with suppress(Refused):  # The block list is gone with a release that was removed: what it had in common is unknown.
                    lists = self._releases.lists(digest, variant)
                    found |= {block.digest for block in (*lists.blocks, *lists.index)}
            self._blocks[stored] = frozenset(found)
        return self._blocks[stored]
