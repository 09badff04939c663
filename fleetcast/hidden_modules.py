"""Find a program's own module that hides one of ours: a file of the name beside a script is imported in place of fleetcast's.

Imports the standard library only: where `schemas` is hidden, nothing of ours can be imported.
"""

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Final

HERE: Final = Path(__file__).resolve().parents[1]  # Where the packages are installed, `fleetcast` and ours beside it.


class HiddenModule(ImportError):
    """Report that a module which is no part of fleetcast has the name of one that is."""

    def __init__(self, package: str, found: str) -> None:
        self.code, self.mend = (
            "module.hidden",
            f"rename {found}, or run the program with `python -P`, which does not look beside the script",
        )
        super().__init__(f"{found} hides fleetcast's own package {package!r}: {self.mend}", name=package, path=found)


def check_not_hidden(*packages: str) -> None:
    """Check that packages of ours are found, and not others of the same name.

    Raises:
        HiddenModule: another one is found first; it names the file and the mend.
    """
    for package in packages:
        found = _origin(package)
        if found is not None and found != HERE / package / "__init__.py":
            raise HiddenModule(package, str(found))


def _origin(package: str) -> Path | None:
    """Return the file that `import package` runs or has run; None where there is none."""
    module = sys.modules.get(package)
    if module is not None:
        file = getattr(module, "__file__", None)
        return Path(file).resolve() if file else _folder(getattr(module, "__path__", ()))
    try:
        spec = find_spec(package)
    except (ImportError, ValueError):
        return None
    if spec is None:
        return None
    if spec.origin is not None and spec.has_location:
        return Path(spec.origin).resolve()
    return _folder(spec.submodule_search_locations or ())


def _folder(places: object) -> Path | None:
    """Return the folder of a package that has no file, such as an empty folder `hub` beside a script."""
    for place in places if hasattr(places, "__iter__") else ():
        return Path(str(place)).resolve()
    return None
