"""Show the tokens of the API, make one, revoke one."""

import time
from datetime import datetime
from typing import Final

from fleetcast.counted import counted as number_of
from hub.operations import api_tokens
from hub.web.console.moments import moment
from hub.web.console.page import Answer, Asking, Done, Given, Input, Page, Question, View, etag_of
from hub.web.console.sentence import bold, code, path, said
from schemas.errors import Code, Refused

DAYS: Final = 90


def load(view: View) -> Answer:
    """Return the page of tokens."""
    rows = api_tokens.rows(view.fleet)
    good = sum(row["state"] == "good" for row in rows)
    sentence = f"{good} of {number_of(len(rows), 'token')} {'is' if good == 1 else 'are'} good" if rows else "There is no token"
    return Answer(sentence, "fleetcast tokens list", {"rows": rows}, title="tokens")


def _make(view: View) -> Asking:
    return Asking(
        heading="Make a token?",
        text=said("It is shown once. Only its digest is kept. A viewer reads, an operator also moves rollouts and sets labels, ",
                  "a publisher reads and publishes, an admin may do everything."),
        no="Make none",
        yes="Make the token",
        cli="fleetcast tokens make NAME --role ROLE",
        blanks="its name and role",
        back_to="/keys",
        fields=(
            Input("token_name", "Name", characters_max=api_tokens.NAME_CHARACTERS_MAX),
            Input("role", f"Role: {', '.join(api_tokens.ROLES)}", "viewer", characters_max=20),
            Input("days", f"Days until it expires, at most {api_tokens.DAYS_MAX}", str(DAYS), characters_max=4),
        ),
        section="",
    )  # fmt: skip


def _made(view: View, given: Given) -> Done:
    role = next((one for one in api_tokens.ROLES if one == given.fields["role"].strip()), None)
    days = int(given.fields["days"]) if given.fields["days"].isascii() and given.fields["days"].isdecimal() else 0
    if role is None or not 1 <= days <= api_tokens.DAYS_MAX:
        raise Refused(Code.REQUEST_INVALID, f"a role is one of {', '.join(api_tokens.ROLES)}, and days are 1 to {api_tokens.DAYS_MAX}")
    name = given.fields["token_name"].strip()
    mine = [one for one in api_tokens.rows(view.fleet) if one["state"] == "good" and one["name"] == name and one["made_by"] == _me(view)]
    if mine:
        made = f"you have made the token {name} already, at {moment(int(datetime.fromisoformat(mine[0]['made']).timestamp()), view.now)}"
        raise Refused(Code.REQUEST_INVALID, f"{made}: if you did not copy it, revoke it and make another, for it is shown once")
    row, text = api_tokens.make(view.fleet, name=name, role=role, days=days)
    shown = api_tokens.row_of(row, int(time.time()))
    return Done("/keys", template="token.html", values={"token": text, "row": shown})


def _me(view: View) -> str:
    return view.session.actor if view.session is not None else ""


def _revoke(view: View) -> Asking:
    row = next((one for one in api_tokens.rows(view.fleet) if one["id"] == view.params["token"]), None)
    if row is None:
        raise Refused(Code.REQUEST_UNKNOWN, f"there is no token {view.params['token'][:40]}")
    if row["state"] == "revoked":
        raise Refused(Code.REQUEST_UNKNOWN, f"the token {row['name']} is revoked already")
    return Asking(
        heading=f"Revoke {row['name']}?",
        text=said(
            *("The token ", bold(row["name"]), " (", code(row["id"]), f", {row['role']}, {row['state']}) is refused from then on. "),
            "Everybody who is signed in by it is signed out. This cannot be undone; a new token can be made.",
        ),
        no="Leave it",
        yes=f"Revoke {row['name']}",
        cli=f"fleetcast tokens revoke {row['id']}",
        back_to="/keys",
        etag=etag_of(0, row["state"]),
        figure=f"the token is {row['state']}",
        is_stop=True,
        section="",
    )  # fmt: skip


def _revoked(view: View, given: Given) -> Done:
    api_tokens.revoke(view.fleet, view.params["token"])
    return Done(path("keys"))


PAGES: Final = (Page("/keys", "keys.html", load, right="admin", doing="Seeing the tokens"),)
QUESTIONS: Final = (
    Question("/keys/make", "Making a token", "admin", _make, _made, subject="the tokens"),
    Question("/keys/{token}/revoke", "Revoking a token", "admin", _revoke, _revoked, subject="the tokens", levels=2),
)
