"""What is not there is answered with one status and one code, whatever is asked of it."""

import re

from hub.web.roles import ROUTES
from tests.hub.web.fleets import Asked
from tests.hub.web.test_roles import BODIES, NAMES

UNKNOWN = {
    "model": ("nope", "release.unknown"),
    "deployment": ("nope", "request.unknown"),
    "version": ("9.9.9", "release.unknown"),
    "node": ("nope", "node.unknown"),
    "operation": ("999", "request.unknown"),
    "token": ("00000000", "request.unknown"),
    "publication": ("0" * 32, "request.unknown"),
    "payload": ("0" * 64, "request.unknown"),
    "revision": ("999", "request.unknown"),
    "application": ("0" * 16, "request.unknown"),
}
MAKES = {("PUT", "/models/{model}/deployments/{deployment}"): "deployment"}  # What is not there is made by it.
IS_BINARY = re.compile(r"^/publications/|^/models/.*/removal$")


def test_a_name_that_is_not_there_is_404_with_one_code_by_every_verb(here: Asked) -> None:
    wrong, asked = [], set()
    for method, template in ROUTES:
        for name in re.findall(r"{(\w+)}", template):
            if MAKES.get((method, template)) == name:
                continue
            path = template.format(**{**NAMES, name: UNKNOWN[name][0]})
            more = {"json": BODIES[method, template]} if (method, template) in BODIES else {}
            if method != "GET" and IS_BINARY.match(template):
                more = {"content": b"x", "headers": {"content-type": "application/octet-stream"}}
            wait = "?wait=0" if method != "GET" and re.search(r"^/rollouts|{deployment}|settings", template) else ""
            answer = here.ask(method, path + wait, "admin", **more)
            asked.add(name)
            if (answer.status_code, answer.json().get("code")) != (404, UNKNOWN[name][1]):
                wrong.append((method, path, answer.status_code, answer.json().get("code"), answer.json().get("detail")))
    assert not wrong, "\n".join(map(str, wrong))
    assert asked == set(UNKNOWN)


def test_a_name_in_a_body_or_a_filter_is_unknown_by_the_same_code(here: Asked) -> None:
    answers = [
        here.ask("POST", "/rollouts?wait=0", json={"model": "nope", "version": "1.0.0"}),
        here.ask("POST", "/rollouts?wait=0", json={"model": "m", "version": "9.9.9"}),
        here.ask("POST", "/plan", json={"model": "nope", "version": "1.0.0"}),
        here.ask("POST", "/plan", json={"model": "m", "version": "9.9.9"}),
        here.ask("PUT", "/models/m/deployments/hold?wait=0", json={"where": "site=jfk", "release": "9.9.9"}),
        here.ask("GET", "/rollouts?model=nope"),
    ]

    assert [(one.status_code, one.json().get("code")) for one in answers] == [(404, "release.unknown")] * len(answers)
