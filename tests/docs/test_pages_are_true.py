"""What pages name is there: links and their anchors, paths and modules, make targets, commands and their options."""

import re
import shlex
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path

import click
import pytest

from schemas.topics import TABLE
from tools import commands

CHECKOUT = Path(__file__).parents[2]
PAGES = sorted(
    [
        *CHECKOUT.glob("*.md"),
        *CHECKOUT.glob("docs/**/*.md"),
        *(path for path in CHECKOUT.glob("*/README.md") if path.parent.name != "node_modules"),
    ]
)
TRUE_TODAY = [page for page in PAGES if page.name != "CHANGELOG.md" and page.parent.name != "decisions"]  # those tell what was
LINK = re.compile(r"\]\(([^)\s]+)\)")
FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
TICKED = re.compile(r"`([^`\n]+)`")
PATH = re.compile(r"[\w.*-]+(?:/[\w.*-]+)*/?")
MODULE = re.compile(r"\w+(?:\.\w+)+")
FILES = {".toml", ".sqlite", ".key", ".crt", ".pem", ".log", ".md", ".sock", ".txt", ".damaged"}  # which may be called as a package is
PACKAGES = sorted(path.parent for path in CHECKOUT.glob("*/__init__.py"))
FOLDERS = {path.name for package in PACKAGES for path in package.rglob("*") if path.is_dir() and path.name not in {"__pycache__", "json"}}
FOLDERS -= {"broker"}  # a fleet's folder has one, too


def ident(path: Path) -> str:
    return path.relative_to(CHECKOUT).as_posix()


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    found: dict[str, int] = {}
    for heading in re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text(encoding="utf-8")), re.MULTILINE):
        slug = re.sub(r"[^\w\- ]", "", re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).lower()).replace(" ", "-")
        found[slug] = found.get(slug, -1) + 1
        found |= {f"{slug}-{found[slug]}": 0} if found[slug] else {}
    return set(found)


@cache
def literals() -> str:
    """Return all of our code and figures: a name with a dot in it may be a code, an event or a figure, which is quoted there."""
    files = [CHECKOUT / "bench" / "results.json", *(path for package in PACKAGES for path in package.rglob("*.py"))]
    return "\n".join(path.read_text(encoding="utf-8") for path in files)


def is_there(name: str) -> bool:
    """Return whether a module, or what a module holds, can be imported by this name."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        try:
            found: object = import_module(".".join(parts[:length]))
        except ImportError:
            continue
        for part in parts[length:]:
            if not hasattr(found, part):
                return False
            found = getattr(found, part)
        return True
    return False


def false_names(text: str) -> Iterator[str]:
    """Yield what is written like a path or a module of this checkout, and is none."""
    outside = FENCE.sub("", text)
    for ticked in TICKED.findall(outside):
        name = ticked.split("::")[0].split(" ")[0]
        first = name.split("/")[0]
        if name.startswith("fleetcast/v1") or name in {kind.pattern for kind in TABLE}:
            continue  # a topic
        if PATH.fullmatch(name) and "/" in name.rstrip("/") and (CHECKOUT / first).is_dir() and not list(CHECKOUT.glob(name)):
            yield name
        if PATH.fullmatch(name) and "/" in name.rstrip("/") and first in FOLDERS and not in_a_package(name):
            yield name
        if is_written_like_a_module(name) and f'"{name}"' not in literals() and not is_there(name):
            yield name
    for fenced in FENCE.findall(text):
        for name in re.findall(rf"(?<![\w/.-])(?:{'|'.join(sorted(FOLDERS))})/\w+", fenced):
            if not in_a_package(name):
                yield name


def is_written_like_a_module(name: str) -> bool:
    first, dot, _ = name.partition(".")
    return bool(dot and MODULE.fullmatch(name)) and Path(name).suffix not in FILES and first in {package.name for package in PACKAGES}


def in_a_package(name: str) -> bool:
    return any(list(package.glob(f"**/{name.rstrip('/')}{end}")) for package in PACKAGES for end in ("", ".py"))


@pytest.mark.parametrize("page", PAGES, ids=ident)
def test_every_link_of_a_page_leads_somewhere(page: Path) -> None:
    text = TICKED.sub("", FENCE.sub("", page.read_text(encoding="utf-8")))
    broken = []
    for link in LINK.findall(text):
        if not re.match(r"[a-z]+:", link):
            path, _, anchor = link.partition("#")
            target = (page.parent / path).resolve() if path else page
            if not target.exists() or (anchor and anchor not in anchors(target)):
                broken.append(link)

    assert broken == []


@pytest.mark.parametrize("page", TRUE_TODAY, ids=ident)
def test_every_path_and_module_that_a_page_names_exists(page: Path) -> None:
    assert list(false_names(page.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize("page", TRUE_TODAY, ids=ident)
def test_every_make_target_that_a_page_names_exists(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (CHECKOUT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"(?:`|^)make ([a-z][a-z-]*)", page.read_text(encoding="utf-8"), re.MULTILINE))

    assert named - targets == set()


@pytest.fixture(scope="module")
def programs() -> dict[str, click.Command]:
    return {name: commands.command_of(function) for name, function in commands.programs(CHECKOUT).items()}


@pytest.mark.parametrize("page", TRUE_TODAY, ids=ident)
def test_every_command_of_a_page_has_the_options_that_it_is_given(page: Path, programs: dict[str, click.Command]) -> None:
    assert list(wrong_commands(page.read_text(encoding="utf-8"), programs)) == []


def test_names_that_are_not_there_are_found(programs: dict[str, click.Command]) -> None:
    assert list(
        false_names("`docs/gone.md`, `tests/conftest.py`, `schemas.codec.decode`, `schemas.gone`, `core/gone`, `node/<id>/state`")
    ) == [
        "docs/gone.md",
        "schemas.gone",
        "core/gone",
    ]
    assert list(wrong_commands("```\nfleetcast gone x\nfleetcast nodes --gone\nfleetcast nodes --json\n```", programs)) == [
        "fleetcast gone x",
        "fleetcast nodes --gone",
    ]


def wrong_commands(text: str, programs: dict[str, click.Command]) -> Iterator[str]:
    """Yield the command lines of a page, in blocks and in backticks, of which a subcommand or an option does not exist."""
    lines = [line for fence in FENCE.findall(text) for line in fence.replace("\\\n", " ").splitlines()] + TICKED.findall(
        FENCE.sub("", text)
    )
    for line in lines:
        for part in re.split(r"[;&|)]+|\$\(", line):
            words = part.split("  #")[0].split()
            if words and words[0] in programs and not _fits(programs[words[0]], _words(part)):
                yield line.strip()


def _words(part: str) -> list[str]:
    try:
        return shlex.split(part, comments=True)[1:]
    except ValueError:  # a quotation mark that ends in another part
        return part.split()[1:]


def _fits(command: click.Command, words: list[str]) -> bool:
    context = click.Context(command)
    while words and isinstance(command, click.Group) and not words[0].startswith(("-", "[")):
        found = command.get_command(context, words[0].rstrip(",.:"))
        if found is None and any(isinstance(one, click.Argument) for one in command.params):
            break  # what the group lists: `fleetcast releases delay`
        if found is None:
            return words[0] in {"…", "..."}
        command, words = found, words[1:]
    known = {name for option in command.get_params(click.Context(command)) for name in (*option.opts, *option.secondary_opts)} | {"-h"}
    return all(word.split("=")[0] in known for word in words if re.match(r"--?[a-z]", word))


def test_nobody_is_sent_to_a_package_index_for_fleetcast() -> None:
    sent = re.compile(r"pip install ['\"]?fleetcast\b(?!-|\[[a-z,]*\] @)")
    texts = [*TRUE_TODAY, *(path for package in PACKAGES for path in package.rglob("*.py"))]

    assert [ident(path) for path in texts if sent.search(path.read_text(encoding="utf-8"))] == []


def test_the_glossary_is_in_alphabetical_order_and_names_each_word_once() -> None:
    words = re.findall(r"^\| ([^|]+) \| [A-Z]", (CHECKOUT / "docs" / "glossary.md").read_text(encoding="utf-8"), re.MULTILINE)

    assert len(words) > 80
    assert words == sorted(set(words), key=str.lower)


def test_every_page_is_in_the_index() -> None:
    index = CHECKOUT / "docs" / "README.md"
    listed = {(index.parent / link).resolve() for link in LINK.findall(index.read_text(encoding="utf-8"))}

    assert {ident(page) for page in CHECKOUT.glob("docs/*.md")} - {ident(page) for page in listed} == {"docs/README.md"}
