"""Which execution providers ONNX Runtime has on this device, asked of a process of its own: the agent never imports it.

Importing it takes seconds on a small device, so the answer is kept in a file, until another ONNX Runtime is installed.
"""

import json
import subprocess
import sys
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import structlog

log = structlog.get_logger(__name__)

SECONDS_MAX: Final = 60.0
CACHE_BYTES_MAX: Final = 4096
PROVIDERS_MAX: Final = 16  # schemas.state.Profile's
CPU: Final = ("CPUExecutionProvider",)  # of every build


def execution_providers(cache: Path) -> tuple[str, ...]:
    """Their names, the preferred first; none where ONNX Runtime is not installed."""
    spec = find_spec("onnxruntime")
    if spec is None or spec.origin is None:
        return ()
    installed = f"{spec.origin} {Path(spec.origin).stat().st_mtime_ns}"
    with suppress(OSError, ValueError, KeyError, TypeError):
        with cache.open("rb") as file:
            kept = json.loads(file.read(CACHE_BYTES_MAX))
        if kept["installed"] == installed:
            return _names(kept["providers"])
    try:
        command = [sys.executable, "-P", "-m", "node.runtimes.onnx"]
        environment = {"PYTHONPATH": str(Path(__file__).resolve().parents[2])}
        said = subprocess.run(command, capture_output=True, check=True, timeout=SECONDS_MAX, env=environment).stdout
        found = _names(json.loads(said))
    except (OSError, subprocess.SubprocessError, ValueError, TypeError) as error:
        log.warning("providers.unknown", reason=str(error)[:200])
        return CPU
    with suppress(OSError):  # asked again at the next start
        cache.write_text(json.dumps({"installed": installed, "providers": found}))
    return found


def _names(listed: object) -> tuple[str, ...]:
    if not isinstance(listed, list) or not all(isinstance(name, str) for name in listed):
        raise TypeError("not a list of names")
    return tuple(listed[:PROVIDERS_MAX])
