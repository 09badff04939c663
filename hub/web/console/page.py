"""Define how a page and a question are declared: where they are, who may see them, and the function that answers them.

A page is a value: its address, its template, and `load`, which reads what the template shows. Its regions are the blocks of the template
whose names begin with `live_`: each is sent again when it has changed (hub/web/console/live.py), by the same template. It stands alone in
an element with `data-live`, as in `<section data-live="gates">{% block live_gates %}...{% endblock %}</section>`. What belongs to one
session alone (forms, who is signed in) must not be in such a block: all viewers of a role get the same one.

A question is asked by GET and answered by POST: `ask` returns its words, and what they were counted by; `do` does it.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from markupsafe import Markup
from starlette.requests import Request

from hub.operations.console_sessions import Session
from hub.operations.csv_exports import Table
from hub.operations.opened_fleet import OpenedFleet
from hub.operations.snapshot import Snapshot
from hub.web.console.shared import Shared
from hub.web.roles import Right, may
from schemas.errors import Code, Refused

Section = Literal["Fleet", "Models", "Nodes", "Drift", "Bytes", "Alerts", "Audit", ""]


@dataclass(frozen=True)
class View:
    """Hold what a page is made of: the fleet, who looks, what was asked, and the time."""

    fleet: OpenedFleet
    shared: Shared
    role: str
    session: Session | None  # None where a region is made for all viewers of a role.
    params: Mapping[str, str]
    query: Mapping[str, str]
    now: int
    address: str  # Path and query of the page.

    @cached_property
    def snapshot(self) -> Snapshot:
        """Return what is known of all nodes."""
        return self.shared.snapshots.get(self.fleet)

    def may(self, right: Right) -> bool:
        """Return whether who looks may do this."""
        return may(self.role, right)

    @classmethod
    def of(cls, request: Request, fleet: OpenedFleet, shared: Shared, session: Session, now: int) -> "View":
        """Return the view of a request."""
        address = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        return cls(fleet, shared, session.role, session, dict(request.path_params), dict(request.query_params), now, address)


@dataclass(frozen=True, slots=True)
class Answer:
    """Hold what a page says. `sentence` is its heading, and its title where there is no shorter one. `needs`: things that need a person."""

    sentence: str | Markup
    cli: str  # The commands that print the same.
    values: Mapping[str, Any] = field(default_factory=dict)
    title: str = ""
    lead: str | Markup = ""  # A second sentence, below the first.
    needs: int = 0
    crumbs: Sequence[Markup] = ()
    cli_besides: str = ""  # What its commands print besides, where none prints the same alone.
    status: int = 200
    refreshes: bool = False  # Without JavaScript it is loaded again every 30 s.


@dataclass(frozen=True, slots=True)
class Page:
    """Declare a page: `path` as Starlette writes it, and the parameters that its address may have."""

    path: str
    template: str
    load: Callable[[View], Answer]
    section: Section = ""
    query: frozenset[str] = frozenset()
    right: Right = "viewer"
    doing: str = "Looking at this"
    table: Callable[[View], Table] | None = None  # What the same address with `.csv` behind its path has, by the same parameters.


@dataclass(frozen=True, slots=True)
class Asking:
    """Hold a question: its words, its two buttons, and the ETag that its counts are of."""

    heading: str
    text: str | Markup
    no: str
    yes: str
    cli: str  # The command that does the same; empty where none does.
    back_to: str  # Where the safe choice leads.
    etag: str = ""
    is_stop: bool = False
    needs_reason: bool = False
    type_name: str = ""  # What has to be typed, where it cannot be undone.
    fields: Sequence["Input"] = ()
    section: Section = "Models"
    template: str = "question.html"
    values: Mapping[str, Any] = field(default_factory=dict)  # What a template of its own shows besides.
    blanks: str = ""  # What is to be put into its command, in which words in capitals stand for it.
    figure: str = ""  # What its counts are, in words: shown beside the new ones where it has changed meanwhile.

    @property
    def groups(self) -> Mapping[str, Sequence["Input"]]:
        """Return the fields that are closed at first, by their heading."""
        names = dict.fromkeys(one.group for one in self.fields if one.group)
        return {name: [one for one in self.fields if one.group == name] for name in names}


@dataclass(frozen=True, slots=True)
class Input:
    """Declare a further field of a question's form."""

    name: str
    label: str
    value: str = ""
    characters_max: int = 200
    is_required: bool = True
    kind: Literal["text", "check"] = "text"  # A box that is ticked sends "yes".
    hint: str = ""
    group: str = ""  # Heading of the part of the form that is closed at first; empty where it is always open.


@dataclass(frozen=True, slots=True)
class Given:
    """Hold what a form brought. `reason` goes to the audit log."""

    fields: Mapping[str, str]
    reason: str
    etag: str


@dataclass(frozen=True, slots=True)
class Done:
    """Hold where to go when it is done, or a page that is shown once."""

    location: str
    number: int | None = None  # The command that was queued, whose answer is waited for.
    template: str = ""
    values: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Question:
    """Declare a question. `doing` begins the sentence for a role that may not: "Halting needs the role operator"."""

    path: str
    doing: str
    right: Right
    ask: Callable[[View], Asking]
    do: Callable[[View, Given], Done]
    query: frozenset[str] = frozenset()
    subject: str = "the rollout"  # What it is about, and how many levels above its address the page of that is.
    levels: int = 1
    reads_anew: bool = False  # Its answer is checked against what is read anew, not against what is kept for viewers for a moment.


def etag_of(serial: int, *counted: object) -> str:
    """Return the ETag of a question: the serial of what it changes, and what else its words were counted by."""
    digest = hashlib.blake2b(json.dumps(counted).encode(), digest_size=12).hexdigest()
    return f"{serial}-{digest}"


def serial_of(etag: str) -> int:
    """Return the serial that is in an ETag."""
    return int(etag.partition("-")[0])


def stale(what: str) -> Refused:
    """Return the refusal of a change whose question has other figures by now."""
    return Refused(Code.REQUEST_STALE, what)
