"""Draw the map of folders from their own descriptions: the docstring of a package, the first paragraph of a README. Names no folder."""

from collections.abc import Iterator
from pathlib import Path

from tools import markdown, sentences

_MADE = {"build", "dist", "node_modules"}  # Folders that tools make beside ours.


def folders(checkout: Path) -> Iterator[Path]:
    """Yield every folder that has a description, then those inside it."""
    for path in sorted(checkout.iterdir()):
        if path.is_dir() and not path.name.startswith((".", "__")) and path.name not in _MADE and path.suffix != ".egg-info":
            if purpose(path):
                yield path
            yield from folders(path)


def purpose(folder: Path) -> str:
    """Return a folder's description of itself; empty if it has none."""
    for name in ("__init__.py", "__main__.py"):
        if (folder / name).is_file() and (sentence := sentences.of_module(folder / name)):
            return sentence
    page = folder / "README.md"
    return sentences.of_page(page) if page.is_file() else ""


def lines(checkout: Path) -> list[str]:
    """Return the map: a table of folders, and a table of modules for each package."""
    every = list(folders(checkout))
    found = markdown.table(["folder", "what it is for"], [(f"`{_name(one, checkout)}`", purpose(one)) for one in every])
    for folder in every:
        modules = [path for path in sorted(folder.glob("*.py")) if not path.name.startswith("__")]
        if modules and _is_package(folder, checkout):
            found += ["", f"### Modules of `{_name(folder, checkout)}`", ""]
            found += markdown.table(["module", "what it does"], [(f"`{path.stem}`", sentences.of_module(path)) for path in modules])
    return found


def _name(folder: Path, checkout: Path) -> str:
    return f"{folder.relative_to(checkout).as_posix()}/"


def _is_package(folder: Path, checkout: Path) -> bool:
    """Return whether a folder is imported by its name: it and all folders that it is in are packages."""
    return all((one / "__init__.py").is_file() for one in (folder, *folder.parents) if checkout in one.parents)
