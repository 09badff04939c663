"""Take in roles that were signed elsewhere, where the keys are: each may differ from the present one in what was asked for alone."""

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from tuf.api.metadata import Targets

from hub.signing.role_lists import versions_of
from hub.signing.signed_roles import check_role
from schemas.bundle import role_name
from schemas.errors import Code, Refused
from schemas.manifest import target_path
from schemas.names import check_version

if TYPE_CHECKING:
    from hub.signing.metadata_files import MetadataFiles


class SignedElsewhere:
    """Be the part of a repository that holds no key."""

    _folder: "MetadataFiles"

    def add_signed_release(self, model: str, version: str, manifest: bytes, role: bytes, *, now: datetime, stores: bool = True) -> None:
        """List a manifest by a role that its team has signed elsewhere; listing the same bytes again does nothing.

        Without `stores` it is only checked.

        Raises:
            Refused: as `add_release`; REQUEST_STALE where the role has changed since it was read, REQUEST_INVALID where more differs.
        """
        path, name = target_path(model, check_version(version)), role_name(model)
        with self._folder.locked():
            expected = self._role_draft(model)
            if self._with_release(model, version, manifest, expected):
                before, targets = self._folder.version(name), self._folder.newest_bytes("targets")
                check_role(role, role=name, version=before, expected=expected, targets=targets, now=now)
                if stores:
                    self._folder.write(self._folder.documents / path, manifest)
                    self._folder.write(self._folder.path(name, before + 1), role)

    def remove_signed_release(self, model: str, version: str, role: bytes, *, now: datetime) -> None:
        """Withdraw one release for good by a role that its team has signed elsewhere.

        Raises:
            Refused: RELEASE_UNKNOWN; KEY_NOT_AUTHORISED; REQUEST_STALE, REQUEST_INVALID as `add_signed_release`.
        """
        name = role_name(model)
        with self._folder.locked():
            expected = self._role_draft(model)
            present = versions_of(model, expected)
            if version not in present:
                raise Refused(Code.RELEASE_UNKNOWN, f"{model!r} has no release {version}; there are {', '.join(present) or 'none'}")
            self._keep(model, expected, [one for one in present if one != version])
            before, targets = self._folder.version(name), self._folder.newest_bytes("targets")
            check_role(role, role=name, version=before, expected=expected, targets=targets, now=now)
            self._folder.write(self._folder.path(name, before + 1), role)

    def undelegate_signed(self, model: str, role: bytes, *, now: datetime) -> None:
        """Remove a model with all its releases by a targets role that was signed elsewhere.

        Raises:
            Refused: as `remove_signed_release`.
        """
        with self._folder.locked():
            expected, before = self._without_model(model), self._folder.version("targets")
            check_role(role, role="targets", version=before, expected=expected, targets=self._folder.newest_bytes("root"), now=now)
            self._folder.write(self._folder.path("targets", before + 1), role)
            self._folder.remove(self._folder.statements / model)

    def _role_draft(self, model: str) -> Targets:
        raise NotImplementedError

    def _without_model(self, model: str) -> Targets:
        raise NotImplementedError

    def _keep(self, model: str, signed: Targets, kept: Sequence[str]) -> None:
        raise NotImplementedError

    def _with_release(self, model: str, version: str, manifest: bytes, signed: Targets) -> bool:
        raise NotImplementedError
