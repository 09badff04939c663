"""Find out what the installed runtimes can do on this device, from processes of their own: the agent never imports one.

Importing one takes seconds on a small device, so a good answer is kept in a file of the data folder, until another version is installed. A
bad answer is asked for again at every start: the library that was missing may have been installed since.
"""

import json
import subprocess
import sys
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import structlog

from fleetcast.missing_libraries import missing_library
from node.runtimes import NEEDS

log = structlog.get_logger(__name__)

SECONDS_MAX: Final = 60.0
CACHE_BYTES_MAX: Final = 4096
PROVIDERS_MAX: Final = 16  # schemas.state.Profile's
REASON_CHARACTERS_MAX: Final = 200
ONNX: Final = "onnx"
PROVIDERS: Final = "providers.json"
CPU: Final = ("CPUExecutionProvider",)  # Every build has it.


def execution_providers(cache: Path) -> tuple[str, ...]:
    """Return the names of ONNX Runtime's execution providers, the preferred first; none where it is not installed."""
    installed = _installed(ONNX)
    if installed is None:
        return ()
    with suppress(OSError, ValueError, KeyError, TypeError):
        return _names(_kept(cache, installed)["providers"])
    try:
        found = _names(json.loads(_imported(ONNX)))
    except (OSError, subprocess.SubprocessError, ValueError, TypeError) as error:
        log.warning("providers.not_probed", reason=str(error)[:REASON_CHARACTERS_MAX])
        return CPU
    _keep(cache, installed, providers=found)
    return found


def unloadable(data: Path) -> dict[str, str]:
    """Return the installed runtimes that cannot be loaded, each with the reason: a library of the system is missing.

    Any other trouble is left to the worker, which meets it with a model at hand and says so.
    """
    found = {}
    for name in NEEDS:
        installed, cache = _installed(name), data / (PROVIDERS if name == ONNX else f"runtime-{name}.json")
        if installed is None:
            continue
        with suppress(OSError, ValueError, KeyError, TypeError):
            _kept(cache, installed)
            continue
        try:
            printed = _imported(name)
        except subprocess.CalledProcessError as error:
            if missing := missing_library(error.stderr.decode(errors="replace")):
                found[name] = missing
        except (OSError, subprocess.SubprocessError) as error:
            log.warning("runtime.not_probed", runtime=name, reason=str(error)[:REASON_CHARACTERS_MAX])
        else:
            with suppress(ValueError, TypeError):
                _keep(cache, installed, **({"providers": _names(json.loads(printed))} if name == ONNX else {}))
    return found


def _installed(name: str) -> str | None:
    """Return what identifies the installed version of a runtime's package."""
    spec = find_spec(NEEDS[name])
    return None if spec is None or spec.origin is None else f"{spec.origin} {Path(spec.origin).stat().st_mtime_ns}"


def _imported(name: str) -> bytes:
    """Return what a process that imports the runtime prints.

    Raises:
        OSError, subprocess.SubprocessError: it cannot be started, is too slow, or ends with an error.
    """
    command = [sys.executable, "-P", "-m", f"node.runtimes.{name}"]
    environment = {"PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    return subprocess.run(command, capture_output=True, check=True, timeout=SECONDS_MAX, env=environment).stdout


def _kept(cache: Path, installed: str) -> dict[str, object]:
    """Return a good answer of the version that is installed.

    Raises:
        OSError, ValueError, KeyError, TypeError: there is none.
    """
    with cache.open("rb") as file:
        kept: dict[str, object] = json.loads(file.read(CACHE_BYTES_MAX))
    if kept["installed"] != installed:
        raise ValueError("another version answered this")
    return kept


def _keep(cache: Path, installed: str, **answer: object) -> None:
    with suppress(OSError):  # asked again at the next start
        cache.write_text(json.dumps({"installed": installed, **answer}))


def _names(listed: object) -> tuple[str, ...]:
    if not isinstance(listed, list) or not all(isinstance(name, str) for name in listed):
        raise TypeError("not a list of names")
    return tuple(listed[:PROVIDERS_MAX])
