"""Bring what operators and the site set about a release into force, and report it. See schemas.parameters."""

from collections.abc import Callable, Collection, Mapping, Sequence

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
        found: Callable[[str, Sequence[Refused]], None] = lambda subject, refusals: None,
    ) -> None:
        self._overrides, self._rollout_parameters, self._refused, self._found = overrides, rollout_parameters, refused, found
        self._logged: dict[bytes, tuple[tuple[Setting, ...], list[str]]] = {}

    def look(self, now: MonotonicSeconds) -> bool:
        """Return whether the site has changed its mind; a file that is wrong is reported, and what it set before holds."""
        try:
            return self._overrides.look(now)
        except Refused as refusal:
            self._refused(refusal, "")
            return False
        finally:
            self._found("parameters", [self._overrides.error] if self._overrides.error else [])

    def check_models(self, known: Collection[str]) -> None:
        """Find models that the site sets something about and that this node does not have: a misspelt name has no effect."""
        strangers = sorted(self._overrides.models - frozenset(known))
        here = ", ".join(sorted(known)) or "none"
        what = f"{self._overrides.path}: models that this node has"
        self._found("models", [mismatch(Code.PARAMETER_UNKNOWN, what, expected=here, actual=", ".join(strangers))] if strangers else [])

    def settings_of(self, digest: bytes, manifest: Manifest) -> tuple[Setting, ...]:
        """Return each parameter of a release: its value, who set it, and why the site's own is not in force; reported once a change."""
        allowed, site = manifest.parameters or (), self._overrides.of(manifest.model)
        found = settings(allowed, rollout=self._rollout_parameters(manifest.model, digest), site=site)
        strangers = unknown(allowed, site)
        if self._logged.get(digest) != (found, strangers):
            self._logged[digest] = (found, strangers)
            self._report(digest, manifest, found, strangers)
        return found

    def effective_parameters(self, digest: bytes, manifest: Manifest) -> EffectiveParameters:
        """Return the same, sorted by where each goes."""
        inputs = [Spec(tensor.name, tensor.datatype, tensor.shape) for tensor in manifest.inputs]
        return effective_parameters(manifest.parameters or (), self.settings_of(digest, manifest), inputs)

    def forget(self, digest: bytes) -> None:
        """Take in that the release is gone."""
        self._logged.pop(digest, None)
        self._found(digest.hex(), [])

    def _report(self, digest: bytes, manifest: Manifest, found: tuple[Setting, ...], strangers: Sequence[str]) -> None:
        refusals: list[Refused] = []
        for setting in found:
            log.info("parameter.applied", model=manifest.model, version=manifest.version, name=setting.name, source=setting.source)
            if setting.code is not None:
                what = f"{manifest.model} {manifest.version} does not allow what is set for {setting.name!r}; the {setting.source}'s holds"
                refusals.append(Refused(Code(setting.code), what))
        if strangers:
            known = ", ".join(setting.name for setting in found) or "none"
            what = f"the site's parameters of {manifest.model} {manifest.version}"
            refusals.append(mismatch(Code.PARAMETER_UNKNOWN, what, expected=known, actual=", ".join(strangers)))
        for refusal in refusals:
            self._refused(refusal, manifest.model)
        self._found(digest.hex(), refusals)
