"""Say what is wrong as pages do: one sentence, what mends it, and nothing that a program would need."""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final

from markupsafe import Markup

from hub.operations.console_sessions import Session
from hub.web import problems
from hub.web.console import moments
from hub.web.console.page import View
from hub.web.console.sentence import bold, said, shown
from hub.web.roles import Right, may
from schemas.errors import Code, Refused

MENDS: Final = {  # What mends it on a page, which has no fields and headers to correct.
    Code.REQUEST_FOREIGN: "load the page again, and send its form from there",
    Code.REQUEST_INVALID: "go back, and correct what is named",
    Code.REQUEST_CONTENT_TYPE: "load the page again, and send its form from there",
    Code.NODE_UNKNOWN: "compare the name with the list of nodes",
    Code.NODE_ENROLLED: "choose another name, or replace the device on the page of the node that has it",
    Code.RELEASE_BREAKING: "choose a release that takes and gives the same, or say on the page of its start that this is intended",
}
OPTION: Final = re.compile(r"(?<![\w-])--([a-z][a-z-]*)((?: [A-Z]{2,})?)")  # With what it takes, such as SELECTOR.
BUG: Final = "That is a bug in fleetcast, not yours. Nothing was changed."


@dataclass(frozen=True, slots=True)
class Wrong:
    """Hold what the page of an error says."""

    status: int
    sentence: str | Markup
    mend: str | Markup = ""
    code: str = ""
    title: str = ""
    back: str | Markup = ""  # A link to what it is about.


class NotThere(Exception):
    """Carry what is said where a page's subject is not there."""

    def __init__(self, wrong: Wrong) -> None:
        super().__init__(wrong.title)
        self.wrong = wrong


def of_refused(
    refused: Refused, status: int | None = None, *, names: Collection[str] = (), fields: Mapping[str, str] | None = None
) -> Wrong:
    """Return what is said of a refusal.

    `names` are of what it may be about, such as a model; `fields` are the labels of the form by their names.
    """
    _, known = problems.meaning_of(refused.code) or ("", "")
    mend = in_page_words(MENDS.get(refused.code, known), fields or {})
    text = sentence_of(in_page_words(refused.reason, fields or {}), names)
    return Wrong(status or problems.STATUSES.get(refused.code, 422), shown(text), shown(mend), refused.code)


def in_page_words(text: str, fields: Mapping[str, str]) -> str:
    """Name the fields of a form where a sentence names options; an option that the form has not is one of the command line.

    A whole command stays as it is: it is typed elsewhere.
    """

    def word(option: re.Match[str]) -> str:
        label = fields.get(option[1].replace("-", "_"))
        return f"“{label.partition(':')[0]}”" if label is not None else f"`--{option[1]}{option[2]}` on the command line"

    parts = problems.COMMAND.split(text)
    parts[::2] = [OPTION.sub(word, part) for part in parts[::2]]
    return "".join(parts)


def sentence_of(reason: str, names: Collection[str] = ()) -> str:
    """Return a reason as a sentence of a page: it begins with a capital letter unless it begins with a name."""
    first = reason.partition(" ")[0].removesuffix(":").removesuffix(",")
    is_word = re.fullmatch(r"[a-z]+(?:'s)?", first) is not None and first.removesuffix("'s") not in names
    return reason[:1].upper() + reason[1:] if is_word else reason


def no_right(doing: str, right: Right, session: Session) -> Wrong:
    """Return what is said to somebody whose role does not allow something."""
    return Wrong(
        403, said(f"{doing} needs the role ", bold(right), ". You are ", bold(session.role), f" until {moments.day(session.ends_at)}.")
    )


def may_not(view: View, doing: str, right: Right) -> Markup:
    """Return the line that stands where an action would, for a role that may not do it; "" where it may."""
    if may(view.role, right):
        return Markup("")
    return said(f"{doing} needs the role ", bold(right), "; you are ", bold(view.role), ".")


def bug(reference: str) -> Wrong:
    """Return what is said of a failure that is nobody's fault but ours."""
    shown_as = f"{reference[:4]}-{reference[4:8]}"
    return Wrong(500, said(f"{BUG} Reference ", bold(shown_as), "; details are in the hub's log."), title="a bug in fleetcast")
