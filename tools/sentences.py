"""Read sentences out of source code: the first of a docstring or page, and the comment beside each name of a class."""

import ast
import io
import re
import tokenize
from pathlib import Path

_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z`'\"\[])|\n\s*\n|(?<=[.!?])$")


def first_sentence(text: str) -> str:
    """Return the first sentence of a text, on one line."""
    return " ".join(_END.split(text.strip(), maxsplit=1)[0].split())


def of_module(path: Path) -> str:
    """Return the first sentence of a module's docstring; empty where there is none."""
    return first_sentence(ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "")


def of_page(path: Path) -> str:
    """Return the first sentence of a Markdown page's first paragraph: no heading, table, list, picture or code."""
    for paragraph in re.split(r"\n\s*\n", path.read_text(encoding="utf-8")):
        if paragraph.strip() and not paragraph.lstrip().startswith(("#", "|", "-", "!", "```", "<")):
            return first_sentence(paragraph)
    return ""


def of_names(path: Path) -> dict[str, dict[str, str]]:
    """Return the comment beside each name that a class of a file assigns: behind the name on its line, else in the lines above it."""
    source = path.read_text(encoding="utf-8")
    comments: dict[int, tuple[str, bool]] = {}  # By line: the comment, and whether it has the line for itself.
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            text = token.string.removeprefix("#").strip()
            comments[token.start[0]] = text, not token.line[: token.start[1]].strip()
    found: dict[str, dict[str, str]] = {}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ClassDef):
            found[node.name] = {name: sentence for line in node.body for name in _assigned(line) if (sentence := _beside(line, comments))}
    return found


def _assigned(line: ast.stmt) -> list[str]:
    if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name):
        return [line.target.id]
    if isinstance(line, ast.Assign):
        return [target.id for target in line.targets if isinstance(target, ast.Name)]
    return []


def _beside(line: ast.stmt, comments: dict[int, tuple[str, bool]]) -> str:
    behind = [
        text for at in range(line.lineno, (line.end_lineno or line.lineno) + 1) for text, _ in [comments.get(at, ("", False))] if text
    ]
    if behind:
        return " ".join(behind)
    above: list[str] = []
    at = line.lineno - 1
    while at in comments and comments[at][1]:
        above.insert(0, comments[at][0])
        at -= 1
    return " ".join(above)
