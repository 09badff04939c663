"""Choose the variant of a release that suits this device."""

from collections.abc import Mapping

from schemas.errors import Code, Refused
from schemas.manifest import Manifest, Variant
from schemas.state import Profile


def choose(manifest: Manifest, profile: Profile, *, unloadable: Mapping[str, str] | None = None) -> Variant:
    """Return the first variant, in the publisher's order of preference, whose requirements the device meets.

    `unloadable`: runtimes that are installed on the device and cannot be loaded, with the reason; the profile does not name them.

    Raises:
        Refused: no variant suits; the sentence says what each is missing.
    """
    lacks: list[str] = []
    for variant in manifest.variants:
        missing = _missing(variant, profile, unloadable or {})
        if not missing:
            return variant
        lacks.append(f"{variant.name} needs {' and '.join(missing)}")
    raise Refused(Code.RELEASE_NO_VARIANT, f"{manifest.model} {manifest.version}: no variant fits this device: {'; '.join(lacks)}")


def _missing(variant: Variant, profile: Profile, unloadable: Mapping[str, str]) -> list[str]:
    needs, missing = variant.requirements, []
    if profile.runtimes is not None and variant.runtime not in profile.runtimes:
        here = f"here are {', '.join(profile.runtimes) or 'none'}"
        why = unloadable.get(variant.runtime)
        missing.append(
            f"the runtime {variant.runtime}, which is installed and cannot be loaded: {why}"
            if why
            else f"the runtime {variant.runtime}, {here}"
        )
    if needs.arch and profile.arch not in needs.arch:
        missing.append(f"arch {' or '.join(needs.arch)}, this is {profile.arch}")
    if profile.memory_bytes < needs.memory_bytes_min:
        missing.append(f"{needs.memory_bytes_min} bytes of memory, here are {profile.memory_bytes}")
    if needs.cores_min is not None and profile.cores < needs.cores_min:
        missing.append(f"{needs.cores_min} cores, here are {profile.cores}")
    if absent := set(needs.providers) - set(profile.providers):
        missing.append(f"providers {', '.join(sorted(absent))}")
    for label, value in sorted((needs.labels or {}).items()):
        if profile.labels.get(label) != value:
            missing.append(f"the label {label}={value}, this has {profile.labels.get(label) or 'none'}")
    return missing
