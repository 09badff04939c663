"""Decoders of what people and programs send to a hub's API and console, and of blueprints: whole requests, in this process."""

import asyncio
import functools
import tempfile
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from hub.core.blueprint.reading import InvalidBlueprint, read
from hub.web.console.forms import token_of
from hub.web.pages import key_of
from schemas.errors import FleetcastError, Refused
from tests.fuzz.mutations import Text
from tests.fuzz.target import Target

GUIDES = ("schemas", "hub.web", "hub.operations", "hub.core.blueprint")  # Of the rest of a hub a request reaches little.

# Blueprints


def _blueprint(data: bytes) -> None:
    read(data, name="fleet.yaml")


BLUEPRINT = b"""# yaml-language-server: $schema=fleet.schema.json
blueprint: 1
fleet: plant
models:
  delay:
    deployments:
      hold-jfk-2:                       # one device stays where it is
        where: node=jfk-2
        priority: 100
        release: 1.3.2
        pin: true
      canary:
        where: ring=canary
        release: 1.4.0
        parameters: {threshold: 0.7}
      default:                          # every other node
        release: 1.4.0
        stages: [1, 10, {name: lab, where: tier=lab, approve: true}, 100]
        gate: {soak_seconds: 3600, nodes_min: 3}
        activate: Mon-Fri 22:00-05:00
        deadline: 7d
nodes:
  - where: site=jfk
    labels: {ring: canary}
    budgets: {metered: {hours: 22:00-05:00, bytes_day_max: 5000000}}
  - node: [gateway-17, gateway-18]
    cohort: nyc
    telemetry: off
"""
YAML_TOKENS = (
    *(
        ": ",
        "- ",
        "\n",
        "\n  ",
        "\n    ",
        "&a ",
        "*a",
        "<<: *a",
        "!!python/object:os.system ",
        "!!binary ",
        "---\n",
        "...\n",
        "%YAML 1.1\n",
    ),
    *(
        "{",
        "}",
        "[",
        "]",
        ",",
        "|",
        ">",
        "'",
        '"',
        "#",
        "\t",
        "\0",
        "~",
        "null",
        "true",
        "yes",
        "0o17",
        "1e400",
        ".inf",
        ".nan",
        "2026-01-01",
    ),
    *(
        "? ",
        "@",
        "`",
        "\\u0000",
        "\u2028",
        "\ufeff",
        "é",
        "1_000",
        "0x1F",
        "99999999999999999999",
        "fleet",
        "models",
        "nodes",
        "deployments",
    ),
    *("blueprint", "based_on", "release", "stages", "where", "priority", "gate", "labels", "parameters", "pin", "budgets", "secret"),
)


# Requests


class _Site:
    """The application of a hub's web on a small fleet, with an administrator's token and cookie."""

    def __init__(self) -> None:
        from hub.web.application import application
        from hub.web.guard import LOOPBACK_NAMES, Door
        from tests.hub.web.fleets import make_asked

        asked = make_asked(Path(tempfile.mkdtemp(prefix="fuzz-web-")) / "made")
        self.loop = asyncio.new_event_loop()
        self._now = 0.0
        door = Door(asked.fleet, LOOPBACK_NAMES, monotonic=self._seconds)
        self.app, self.token, self.cookie = application(door), asked.tokens["admin"], ""
        self.sign_in()

    def sign_in(self) -> None:
        """Take a session of the console."""
        form = f"token={self.token}&next=/".encode()
        headers = [(b"content-type", b"application/x-www-form-urlencoded"), (b"sec-fetch-site", b"same-origin")]
        status, answered = self.ask("POST", "/login", headers, form)
        assert status == 303, status
        self.cookie = next(value.decode().partition(";")[0] for name, value in answered if name == b"set-cookie")

    def _seconds(self) -> float:
        self._now += 1000.0  # Nobody is kept waiting for what another input did.
        return self._now

    def ask(self, method: str, target: str, headers: list[tuple[bytes, bytes]], body: bytes) -> tuple[int, list[tuple[bytes, bytes]]]:
        path, _, query = target.partition("?")
        named = {name for name, _ in headers}
        usual = [(b"host", b"localhost"), (b"content-length", str(len(body)).encode())]
        usual.append(
            (b"authorization", b"Bearer " + self.token.encode()) if path.startswith("/api/") else (b"cookie", self.cookie.encode())
        )
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": unquote(path, errors="replace"),
            "raw_path": path.encode("latin-1", "replace"),
            "query_string": query.encode("latin-1", "replace"),
            "root_path": "",
            "headers": [*[one for one in usual if one[0] not in named], *headers],
            "client": ("127.0.0.1", 50_000),
            "server": ("127.0.0.1", 8080),
            "state": {},
        }
        return self.loop.run_until_complete(asyncio.wait_for(self._answer(scope, body), 30))

    async def _answer(self, scope: dict[str, Any], body: bytes) -> tuple[int, list[tuple[bytes, bytes]]]:
        parts = [{"type": "http.request", "body": body, "more_body": False}]
        answer: dict[str, Any] = {}

        async def receive() -> dict[str, Any]:
            return parts.pop() if parts else {"type": "http.disconnect"}

        async def send(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start":
                answer.update(message)

        await self.app(scope, receive, send)  # type: ignore[arg-type]
        return answer.get("status", 0), list(answer.get("headers", ()))


@functools.cache
def _site() -> _Site:
    return _Site()


def _request(data: bytes) -> None:
    """The head of a request as text, then its body; `%CSRF%` is the token of the form that the path has."""
    head, _, body = data.partition(b"\n\n")
    first, *lines = head.decode("latin-1").split("\n")
    method, _, target = first.partition(" ")
    if not method.isalpha() or not method.isascii() or not target.startswith("/"):
        return
    # What the server library lets through: it refuses the rest before it asks the application.
    target = "".join(one for one in target if " " < one < "\x7f" and one != "#")
    headers = [
        (name.strip().lower().encode("latin-1"), value.strip().encode("latin-1")) for name, _, value in (x.partition(":") for x in lines)
    ]
    headers = [(name, value) for name, value in headers if name and not set(value) & set(b"\r\n\0") and name.isascii()]
    site = _site()
    cookie = site.cookie.partition("=")[2]
    body = body.replace(b"%CSRF%", token_of(cookie, target.partition("?")[0]).encode())
    status, answered = site.ask(method.upper(), target, headers, body)
    if any(name == b"location" and value.startswith(b"/login") for name, value in answered):
        site.sign_in()  # It has signed out.
    assert 200 <= status < 500 or status == 503, f"{method} {target[:200]} was answered with {status}"


JSON, FORM = "content-type: application/json\n", "content-type: application/x-www-form-urlencoded\norigin: http://localhost\n"
API_SEEDS = [
    "GET /api/v1/nodes?limit=2&where=site%3Djfk&sort=name\naccept: application/json\n\n",
    "GET /api/v1/nodes?cursor=WyJuMSJd&after=n1\n\n",
    *(f"GET /api/v1/{one}?limit=2\n\n" for one in ("nodes", "audit", "events", "alerts", "drift", "rollouts", "models/m/releases")),
    f'POST /api/v1/rollouts?wait=0\n{JSON}\n{{"model": "m", "version": "1.0.0"}}',
    f'POST /api/v1/plan\n{JSON}\n{{"model": "m", "version": "1.1.0"}}',
    "GET /api/v1/events/stream\nlast-event-id: 1\naccept: text/event-stream\n\n",
    "GET /api/v1/audit?actor=token%3Aadmin&since=2026-01-01T00:00:00Z&limit=5&cursor=WzEyXQ\n\n",
    f'POST /api/v1/rollouts\n{JSON}idempotency-key: a\nif-match: "0"\n\n{{"model": "m", "version": "1.0.0", "stages": [50, 100]}}',
    f'POST /api/v1/plan\n{JSON}\n{{"model": "m", "version": "1.1.0", "where": "site=jfk", "deadline": "7d"}}',
    f'PATCH /api/v1/nodes/n0/settings\n{JSON}if-match: "0"\n\n{{"display_name": "x", "labels": {{"a": "b"}}, "unset": ["cohort"]}}',
    f'POST /api/v1/node-settings/effect\n{JSON}\n{{"where": "all", "budgets": {{"a": {{"bytes_day_max": 5, "hours": "22:00-05:00"}}}}}}',
    f'POST /api/v1/tokens\n{JSON}\n{{"name": "t", "role": "viewer", "days": 1}}',
    f'POST /api/v1/publications\n{JSON}\n{{"model": "m", "version": "2.0.0", "manifest": "AA=="}}',
    f'PUT /api/v1/models/m/deployments/default\n{JSON}\n{{"where": "site=jfk", "release": "1.0.0", "priority": 10}}',
]
CONSOLE_SEEDS = [
    "GET /\n\n",
    *(f"GET {path}\n\n" for path in ("/nodes", "/nodes/n0", "/models", "/models/m", "/rollouts", "/drift", "/alerts", "/history", "/keys")),
    "GET /nodes?where=site%3Djfk&sort=name&cursor=WyJuMSJd\n\n",
    "GET /models/m?version=1.0.0&wall=1\n\n",
    "GET /live?page=/&last=3\nlast-event-id: 3\naccept: text/event-stream\n\n",
    f"POST /login\n{FORM}\ntoken=ft&next=%2Fnodes",
    f"POST /keys/make\n{FORM}\ncsrf=%CSRF%&name=x&role=viewer&days=1",
    f"POST /nodes/label\n{FORM}\ncsrf=%CSRF%&where=site%3Djfk&labels=a%3Db",
    f"POST /nodes/n0/forget\n{FORM}sec-fetch-site: same-origin\n\ncsrf=%CSRF%&name=n0",
]
HTTP_TOKENS = (
    *(
        "?",
        "&",
        "=",
        "%",
        "%00",
        "%2F",
        "..",
        "/",
        "\n",
        ": ",
        "[",
        "]",
        "{",
        "}",
        '"',
        ",",
        ":",
        "\\u0000",
        "\\ud800",
        "é",
        "\xff",
        "+",
        "%ff",
    ),
    *(
        "0",
        "-1",
        "1e400",
        "9" * 30,
        "9" * 5000,
        "NaN",
        "null",
        "true",
        "limit=",
        "cursor=",
        "before=",
        "label=",
        "status=",
        "WyJuMSJd",
        "W10",
    ),
    *(
        "last-event-id: ",
        "if-match: ",
        "idempotency-key: ",
        "origin: http://[",
        "host: [::1",
        "content-type: ",
        "sec-fetch-site: cross-site",
    ),
    *(
        "csrf=%CSRF%",
        "all",
        "site=jfk",
        "not ",
        " and ",
        "m@1.0.0",
        "/api/v1/nodes/",
        "/api/v1/models/m",
        "/models/m",
        "/nodes/n0",
        "text/html",
    ),
)


def _encoded(seeds: list[str]) -> list[bytes]:
    return [one.encode("latin-1") for one in seeds]


def _cursor(data: bytes) -> None:
    for kinds in ((str,), (int,), (str, str), (int, str, int)):
        try:
            found = key_of(data.decode("latin-1"), kinds)
        except Refused:
            continue
        assert [type(one) for one in found] == list(kinds)


TARGETS = (
    Target("blueprints", _blueprint, lambda: [BLUEPRINT], Text(YAML_TOKENS), (InvalidBlueprint,)),
    Target("api_requests", _request, lambda: _encoded(API_SEEDS), Text(HTTP_TOKENS), (), 32 * 1024, _site, GUIDES),
    Target("console_requests", _request, lambda: _encoded(CONSOLE_SEEDS), Text(HTTP_TOKENS), (), 32 * 1024, _site, GUIDES),
    Target(
        "cursors",
        _cursor,
        lambda: [b"WyJuMSJd", b"WzEyXQ", b"WzEsImEiLDJd"],
        Text(("=", "_", "-", "A", "W10", "\0", "é")),
        (FleetcastError,),
        4096,
    ),
)
