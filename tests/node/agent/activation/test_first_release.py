"""What local programs are answered while the first release of a model is on its way: to come again, and what it waits for."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.node.agent.activation.test_activation import affine, releasing
from tests.node.agent.sites import Site

ASKED: list[tuple[str, str]] = [
    ("POST", "/v2/models/m/infer"),
    ("POST", "/v2/models/m/versions/1.0.0/infer"),
    ("GET", "/v2/models/m"),
    ("GET", "/v2/models/m/ready"),
    ("GET", "/v2/models/m/stats"),
    ("GET", "/v2/health/ready"),
    ("GET", "/v1/models/m"),
    ("POST", "/v1/chat/completions"),
]
CHAT = {"model": "m", "messages": [{"role": "user", "content": "x"}], "inputs": []}


@pytest.fixture
def contents() -> dict[bytes, bytes]:
    return {}


@pytest.fixture
def site(tmp_path: Path, contents: dict[bytes, bytes]) -> Iterator[Site]:
    made = Site(tmp_path, contents)
    made.start()
    yield made
    made.server.stop()


def answers(site: Site) -> dict[str, Any]:
    with httpx.Client(base_url=site.url) as client:
        return {f"{method} {path}": client.request(method, path, json=CHAT if method == "POST" else None) for method, path in ASKED}


def sentence(answer: httpx.Response) -> str:
    error = answer.json()["error"]
    return str(error if isinstance(error, str) else error["message"])


def test_a_first_release_on_its_way_is_503_with_what_it_waits_for(site: Site, contents: dict[bytes, bytes]) -> None:
    before = answers(site)
    site.wants(releasing(contents)("1.0.0", affine(2.0)))
    fetching = answers(site)
    site.turn_until(lambda: site.slot().state == "testing")
    testing = answers(site)
    index = httpx.post(site.url + "/v2/repository/index", json={}).json()
    site.turn_until(lambda: site.slot().state in ("probation", "active"))
    served = httpx.get(site.url + "/v2/models/m/ready")

    assert {answer.status_code for path, answer in before.items() if "health" not in path} == {404}
    for found, state, seconds in ((fetching, "is being fetched", "30"), (testing, "is being tested", "1")):
        assert {path: answer.status_code for path, answer in found.items()} == dict.fromkeys(found, 503)
        assert all(f"model 'm' is not served yet: release 1.0.0 {state}" in sentence(answer) for answer in found.values())
        assert {answer.headers["retry-after"] for path, answer in found.items() if "health" not in path} == {seconds}
    assert {"name": "m", "version": "1.0.0", "state": "LOADING", "reason": "is being tested"} in index
    assert served.status_code == 200


def test_a_first_release_that_was_refused_is_404_again(site: Site, contents: dict[bytes, bytes]) -> None:
    site.wants(releasing(contents)("1.0.0", b"no model"))
    site.turn_until(lambda: site.slot().state == "refused")

    assert httpx.get(site.url + "/v2/models/m").status_code == 404
    assert httpx.get(site.url + "/v2/health/ready").json()["error"] == "not ready"


def test_after_a_restart_a_release_that_was_being_tested_is_503(tmp_path: Path, contents: dict[bytes, bytes]) -> None:
    first = Site(tmp_path, contents)
    first.start()
    first.wants(releasing(contents)("1.0.0", affine(2.0)))
    first.turn_until(lambda: first.slot().state == "testing")
    first.server.stop()
    first.store.close()
    again = Site(tmp_path, contents)
    again.start()
    answer = httpx.get(again.url + "/v2/models/m")
    again.server.stop()

    assert answer.status_code == 503
    assert "release 1.0.0 is being" in answer.json()["error"]
