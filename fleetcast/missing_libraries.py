"""Find the Debian package of a shared library that the dynamic linker did not find. Knows no runtime, process or disk.

A wheel is linked with libraries of the system that it does not include: llama.cpp's with libgomp.so.1. The linker's message names the
library, but not its package.
"""

import re
from typing import Final

# The words are glibc's (dl_open_worker), whatever loads it: an import, ctypes, or the library that needs the other.
_MISSING: Final = re.compile(r"([A-Za-z0-9_+.-]+\.so(?:\.[0-9]+)*): cannot open shared object file: No such file or directory")
_SONAME: Final = re.compile(r"(lib[A-Za-z0-9_+.-]+)\.so\.([0-9.]+)")
# These packages of Debian 12 do not have the name that Debian's policy (8.1) derives from the library's name.
_NAMED_OTHERWISE: Final = {
    "libEGL.so.1": "libegl1",
    "libGL.so.1": "libgl1",
    "libOpenCL.so.1": "ocl-icd-libopencl1",
    "libz.so.1": "zlib1g",
}


def missing_library(text: str) -> str | None:
    """Return a sentence that names the missing library and its package; None if the text is about something else."""
    found = _MISSING.search(text)
    if found is None:
        return None
    library = found[1]
    package = package_of(library)
    if package is None:
        return f"the shared library {library} is not installed; on Debian `apt-file search {library}` names its package"
    return f"the shared library {library} is not installed; on Debian: apt-get install {package}"


def package_of(library: str) -> str | None:
    """Return Debian's package of a library by its name and interface version: libgomp.so.1 is in libgomp1; None without a version."""
    if library in _NAMED_OTHERWISE:
        return _NAMED_OTHERWISE[library]
    named = _SONAME.fullmatch(library)
    if named is None:
        return None
    name = named[1].lower().replace("_", "-")
    return f"{name}{'-' if name[-1].isdigit() else ''}{named[2]}"
