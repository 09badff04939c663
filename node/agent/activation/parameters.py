"""Bring what operators and the site set about a release into force, and report it. See schemas.parameters."""

from collections.abc import Callable, Mapping

import structlog

from node.core.activation.effective_parameters import EffectiveParameters, effective_parameters
from node.core.inference.tensors import Spec
from node.core.trust.clock import MonotonicSeconds
from node.host.site_parameters import Overrides
from schemas.errors import Code, Refused, mismatch
from schemas.manifest import Manifest
from schemas.parameters import Setting, Value, settings, unknown

log = structlog.get_logger()


class Parameters:
    """Track what is in force, by release."""

    def __init__(
        self,
        overrides: Overrides,
        *,
        rollout_parameters: Callable[[str, bytes], Mapping[str, Value]],
        refused: Callable[[Refused, str], None],
    ) -> None:
        self._overrides, self._rollout_parameters, self._refused = overrides, rollout_parameters, refused
        self._logged: dict[bytes, tuple[Setting, ...]] = {}

    def look(self, now: MonotonicSeconds) -> bool:
        """Return whether the site has changed its mind; a file that is wrong is reported, and what it set before holds."""
        try:
            return self._overrides.look(now)
        except Refused as refusal:
            self._refused(refusal, "")
            return False

    def settings_of(self, digest: bytes, manifest: Manifest) -> tuple[Setting, ...]:
        """Return each parameter of a release: its value, who set it, and why the site's own is not in force; reported once a change."""
        allowed, site = manifest.parameters or (), self._overrides.of(manifest.model)
        found = settings(allowed, rollout=self._rollout_parameters(manifest.model, digest), site=site)
        if self._logged.get(digest) != found:
            self._logged[digest] = found
            self._report(manifest, found, site)
        return found

    def effective_parameters(self, digest: bytes, manifest: Manifest) -> EffectiveParameters:
        """Return the same, sorted by where each goes."""
        inputs = [Spec(tensor.name, tensor.datatype, tensor.shape) for tensor in manifest.inputs]
        return effective_parameters(manifest.parameters or (), self.settings_of(digest, manifest), inputs)

    def forget(self, digest: bytes) -> None:
        """Take in that the release is gone."""
        self._logged.pop(digest, None)

    def _report(self, manifest: Manifest, found: tuple[Setting, ...], site: Mapping[str, Value]) -> None:
        for setting in found:
            log.info("parameter.applied", model=manifest.model, version=manifest.version, name=setting.name, source=setting.source)
            if setting.code is not None:
                what = f"{manifest.model} {manifest.version} does not allow what is set for {setting.name!r}; the {setting.source}'s holds"
                self._refused(Refused(Code(setting.code), what), manifest.model)
        if strangers := unknown(manifest.parameters or (), site):
            known = ", ".join(setting.name for setting in found) or "none"
            what = f"the site's parameters of {manifest.model} {manifest.version}"
            self._refused(mismatch(Code.PARAMETER_UNKNOWN, what, expected=known, actual=", ".join(strangers)), manifest.model)
