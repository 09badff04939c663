"""Refuse the worst sentences in code and pages: `python -m tools.check_sentences`. Ends with 1 if there is one too many.

Each rule has a name. `ALLOWED` lists the exceptions: how many hits a folder may have, and the reason. A count may only fall.
"""

import ast
import io
import re
import sys
import tokenize
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

CHECKOUT = Path(__file__).parents[1]
CODE = ("fleetcast", "hub", "node", "schemas", "simulation", "tools")
TEST_NAME_CHARACTERS_MAX = 90

RULES = {
    "comment-of": "A comment begins with its subject, not with 'of'.",
    "docstring-verb": "A docstring of a function begins with a verb, such as 'Return whether', not with 'Whether' or 'The'.",
    "class-docstring-verb": "A docstring of a class begins with a verb, such as 'Hold the', not with 'The' or 'One'.",
    "whoever": "A sentence names its subject, such as 'a client that', not 'whoever'.",
    "likewise": "A help text says what it is about, not 'Likewise'.",
    "event-told": "A log event is `noun.verb_past`; for 'told' and 'said' the verb is 'published', 'reported', 'sent' or 'logged'.",
    "test-name": f"The name of a test has at most {TEST_NAME_CHARACTERS_MAX} characters.",
}

# Exceptions, by rule and folder: how many hits are allowed there, and why. The deepest folder that is named here counts for a hit.
ALLOWED: dict[tuple[str, str], tuple[int, str]] = {}

_OF = re.compile(r"#\s*[Oo]f\b")
_NO_VERB = re.compile(r"(a|an|as|by|how|of|the|those|what|where|whether|which|who|whoever|whose|why)\b", re.IGNORECASE)
_NO_CLASS_VERB = re.compile(_NO_VERB.pattern + r"|(all|each|every|everything|one)\b", re.IGNORECASE)
_WHOEVER = re.compile(r"\bwho(m)?ever\b", re.IGNORECASE)
_LIKEWISE = re.compile(r"^Likewise\b")
_EVENT = re.compile(r"[a-z_]+(\.[a-z_]+)+")
_LOGS = {"debug", "info", "warning", "error", "exception", "critical"}


@dataclass(frozen=True)
class Hit:
    """Hold one sentence that breaks a rule, and its place."""

    rule: str
    path: str  # from the checkout, with slashes
    line: int
    text: str


def hits(checkout: Path) -> Iterator[Hit]:
    """Yield every hit in the code, the names of tests, and the pages of a checkout."""
    for folder in CODE:
        for path in sorted((checkout / folder).rglob("*.py")):
            yield from _in_code(path.read_text(encoding="utf-8"), path.relative_to(checkout).as_posix())
    for path in sorted((checkout / "tests").rglob("*.py")):
        yield from _in_tests(path.read_text(encoding="utf-8"), path.relative_to(checkout).as_posix())
    for path in sorted((checkout / "docs").rglob("*.md")):
        yield from _in_page(path.read_text(encoding="utf-8"), path.relative_to(checkout).as_posix())


def _in_code(source: str, path: str) -> Iterator[Hit]:
    if _OF.search(source):
        for token in tokenize.generate_tokens(io.StringIO(source).readline):
            if token.type == tokenize.COMMENT and _OF.match(token.string):
                yield Hit("comment-of", path, token.start[0], token.string)
    if not path.startswith("tools/"):  # which name the words that they refuse
        yield from _whoever(source, path)
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            docstring = ast.get_docstring(node) or ""
            if _NO_VERB.match(docstring):
                yield Hit("docstring-verb", path, node.lineno, docstring.splitlines()[0])
        elif isinstance(node, ast.ClassDef):
            docstring = ast.get_docstring(node) or ""
            if _NO_CLASS_VERB.match(docstring):
                yield Hit("class-docstring-verb", path, node.lineno, docstring.splitlines()[0])
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and _LIKEWISE.match(node.value):
            yield Hit("likewise", path, node.lineno, node.value)
        elif isinstance(node, ast.Call) and (event := _event(node)) and {"told", "said"} & set(re.split(r"[._]", event)):
            yield Hit("event-told", path, node.lineno, event)


def _whoever(text: str, path: str) -> Iterator[Hit]:
    for number, line in enumerate(text.splitlines(), 1):
        if _WHOEVER.search(line):
            yield Hit("whoever", path, number, line.strip())


def _event(call: ast.Call) -> str:
    """Return the event that a call logs; empty where it logs none."""
    if isinstance(call.func, ast.Attribute) and call.func.attr in _LOGS and call.args:
        first = call.args[0]
        if isinstance(first, ast.Constant) and isinstance(first.value, str) and _EVENT.fullmatch(first.value):
            return first.value
    return ""


def _in_tests(source: str, path: str) -> Iterator[Hit]:
    for number, line in enumerate(source.splitlines(), 1):
        found = re.match(r"\s*(?:async )?def (test_\w+)", line)
        if found and len(found[1]) > TEST_NAME_CHARACTERS_MAX:
            yield Hit("test-name", path, number, found[1])


def _in_page(text: str, path: str) -> Iterator[Hit]:
    if not path.startswith("docs/decisions/"):  # which stay as they were written
        yield from _whoever(text, path)
    for number, line in enumerate(text.splitlines(), 1):
        if re.search(r"(?:^|\| |\. )Likewise[.:]", line):
            yield Hit("likewise", path, number, line.strip())


def over(found: list[Hit], allowed: dict[tuple[str, str], tuple[int, str]]) -> tuple[list[Hit], list[str]]:
    """Return the hits of folders that have more than they are allowed, and a line for each count that can be lowered."""
    groups = [(hit, _group(hit, allowed)) for hit in found]
    counts = Counter(group for _, group in groups)
    refused = [hit for hit, group in groups if counts[group] > allowed.get(group, (0, ""))[0]]
    lower = [
        f"{rule} in {folder}: {most} are allowed, {counts[rule, folder]} are there: lower the count in tools/check_sentences.py"
        for (rule, folder), (most, _) in allowed.items()
        if counts[rule, folder] < most
    ]
    return refused, lower


def _group(hit: Hit, allowed: dict[tuple[str, str], tuple[int, str]]) -> tuple[str, str]:
    """Return the rule and the deepest folder of an exception that covers a hit; the folder is empty where there is none."""
    folders = [folder for rule, folder in allowed if rule == hit.rule and hit.path.startswith(f"{folder}/")]
    return hit.rule, max(folders, key=len, default="")


def main(checkout: Path = CHECKOUT) -> int:
    """Print each sentence that is refused with its rule, and the counts that can be lowered."""
    refused, lower = over(list(hits(checkout)), ALLOWED)
    for hit in refused:
        print(f"{hit.path}:{hit.line}: {hit.text!r}. {RULES[hit.rule]} [{hit.rule}]")
    for line in lower:
        print(line)
    return 1 if refused else 0


if __name__ == "__main__":
    sys.exit(main())
