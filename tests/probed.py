"""Ask the installed runtimes once for each process of tests what they can do. Three processes answer that, and every new node asks.

An answer is kept by the node's own means: in its data folder, as after a first start, or beside `probe`, for agents in the tests' own
process. A runtime of another place, as in an environment that lacks a library, is asked again.
"""

import functools
import shutil
import tempfile
from pathlib import Path

from node.runtimes import probe

ask = probe._imported  # as a device does it
ask_once = functools.cache(ask)  # an error is raised again by the next one who asks


@functools.cache
def _answers() -> tempfile.TemporaryDirectory[str]:
    folder = tempfile.TemporaryDirectory(prefix="fleetcast-probes-")
    probe.execution_providers(Path(folder.name, probe.PROVIDERS))
    probe.unloadable(Path(folder.name))
    return folder


def answer_in(data: Path) -> None:
    """Have a node of a process of its own begin as one that has asked at an earlier start."""
    data.mkdir(mode=0o700, exist_ok=True)
    for path in Path(_answers().name).iterdir():
        if not (data / path.name).exists():
            shutil.copyfile(path, data / path.name)
            (data / path.name).chmod(0o600)  # as an agent keeps its files
