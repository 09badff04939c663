"""Find roles that were given another key which has not signed yet: nodes refuse what the key before has signed.

A command that changes keys and is killed between its steps leaves one, until it is repeated.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tuf.api.metadata import Targets

from hub.signing.parsed_metadata import is_signed, parsed
from schemas.bundle import role_name
from schemas.names import sha256

if TYPE_CHECKING:
    from hub.signing.metadata_files import MetadataFiles


@dataclass(frozen=True, slots=True)
class Unsigned:
    """Hold these roles, and by which roles that name keys they were found."""

    named_by: bytes
    roles: tuple[str, ...]


class UnsignedRoles:
    """Be the part of a repository that finds them."""

    _folder: "MetadataFiles"

    def unsigned(self, known: Unsigned | None = None) -> Unsigned:
        """Return them. Of roles that were found before, by the same keys, only these are looked at again: a fleet may have 1,000 models."""
        with self._folder.locked():
            root, targets = self._folder.newest_bytes("root"), self._folder.newest_bytes("targets")
            named_by = sha256(root + targets)
            if not is_signed("targets", targets, by=root):
                return Unsigned(named_by, ("targets",))
            found: Targets = parsed(targets).signed
            delegated = (found.delegations.roles if found.delegations is not None else None) or {}
            teams = [name for name, role in delegated.items() if name.startswith(role_name("")) and role.keyids]  # None: it was revoked.
            among = [one for one in teams if one in known.roles] if known is not None and known.named_by == named_by else teams
            versions = self._folder.versions()
            left = [one for one in among if versions.get(one) and not is_signed(one, self._folder.newest_bytes(one), by=targets)]
            return Unsigned(named_by, tuple(left))


def unsigned_in_words(roles: Sequence[str], all_models: int) -> list[str]:
    """Return in words what is wrong, and the command that mends it."""
    teams = [one.removeprefix(role_name("")) for one in roles if one != "targets"]
    said = []
    if "targets" in roles:
        said.append(
            "the targets role was given a new key that has not signed it, and the hub signs nothing new: repeat"
            " `fleetcast keys rotate targets`"
        )
    if teams:
        which = "" if len(teams) == all_models else "".join(f" --model {one}" for one in teams)
        what = f"the team of {', '.join(teams)} was given a new key that has not signed its releases, and nodes refuse them"
        keep = "(or each release by --keep MODEL@VERSION, if the old key was stolen)"
        said.append(f"{what}: repeat `fleetcast keys rotate team{which} --keep-all` {keep}")
    return said
