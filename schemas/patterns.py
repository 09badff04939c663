"""Say in words what a text may be that has a pattern: nobody corrects a file or a request by a regular expression."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

FOUND_CHARACTERS_MAX: Final = 64  # As much of a wrong text is repeated.


@dataclass(frozen=True, slots=True)
class Form:
    """Hold the words for a pattern: what matches it is a `noun`, and must be `rule`. `near` returns what a wrong text may have meant."""

    noun: str
    rule: str
    near: Callable[[str], str] | None = None


_FORMS: Final[dict[str, Form]] = {}
_ALTERNATIVES: Final = re.compile(r"\^\(([a-z_-]+(?:\|[a-z_-]+)+)\)\$")


def in_words(pattern: str, noun: str, rule: str, near: Callable[[str], str] | None = None) -> str:
    """Return the pattern, and keep the words for it: "'1.0' is no NOUN: it must be RULE"."""
    _FORMS[pattern] = Form(noun, rule, near)
    return pattern


def form_of(pattern: str) -> Form | None:
    """Return the words for a pattern; a list of alternatives needs none of its own."""
    if (found := _ALTERNATIVES.fullmatch(pattern)) is not None:
        *first, last = found[1].split("|")
        return Form("choice", f"{', '.join(first)} or {last}")
    return _FORMS.get(pattern)


def wrong_text(error: Mapping[str, Any]) -> str | None:
    """Return what is wrong with a text that does not match its pattern, or None where an error of pydantic is another."""
    if error["type"] != "string_pattern_mismatch":
        return None
    form, text = form_of(error["ctx"]["pattern"]), error.get("input")
    found = repr(text[:FOUND_CHARACTERS_MAX]) if isinstance(text, str) else "it"
    if form is None:
        return f"{found} has characters that are not allowed here"
    if form.near is not None and isinstance(text, str) and (near := form.near(text[: FOUND_CHARACTERS_MAX + 1])):
        return f"{found} is no {form.noun}; write {near}"
    return f"{found} is no {form.noun}: it must be {form.rule}"


def reason_of(error: Mapping[str, Any]) -> str:
    """Return what is wrong by an error of pydantic: a pattern is put into words, others are as they are."""
    return wrong_text(error) or str(error["msg"])
