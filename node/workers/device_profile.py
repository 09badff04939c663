"""Describe this device, as variants are chosen by: architecture, cores, memory, runtimes and their execution providers."""

import os
import platform
from collections.abc import Container

from node.runtimes import available
from node.runtimes.probe import PROVIDERS, execution_providers
from node.settings import NodeSettings
from schemas.state import Profile


def profile(settings: NodeSettings, *, unloadable: Container[str] = ()) -> Profile:
    """Return what this device is, as variants are chosen by; without the runtimes that cannot be loaded (node.runtimes.probe)."""
    return Profile(
        arch=platform.machine() or "unknown",
        cores=os.cpu_count() or 1,
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        providers=execution_providers(settings.data / PROVIDERS),
        labels=dict(settings.labels),
        runtimes=tuple(name for name in available() if name not in unloadable),
    )
