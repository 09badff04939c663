"""A model that the fleet has removed: whatever the node was doing with it, it is served no more, and its disk is free."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from node.trust.tuf_client import Release
from schemas.manifest import Limits
from tests.hub.hubs import until
from tests.node.agent.activation.test_client_errors import LONG, SHORT, Publisher, ask, on_probation, settle
from tests.node.agent.sites import Site


@pytest.fixture
def publisher() -> Publisher:
    return Publisher()


@pytest.fixture
def site(tmp_path: Path, publisher: Publisher) -> Iterator[Site]:
    site = Site(tmp_path / "node", publisher.contents)
    site.start()
    yield site
    site.server.stop()


def releases(site: Site) -> list[Path]:
    return [path for path in (site.folder / "artifacts").iterdir() if path.is_dir()]


def check_gone(site: Site) -> None:
    assert ask(site) == 404
    assert site.store.slots() == {}
    assert site.store.moves("m") == []
    assert site.slots.report_of() == ()
    assert releases(site) == []
    current = site.folder / "current"
    assert not current.exists() or list(current.iterdir()) == []
    until("the workers", lambda: site.server.loaded() == {})


def served(site: Site, publisher: Publisher) -> None:
    settle(site, publisher.model("1.0.0", limits=SHORT))


def tried(site: Site, publisher: Publisher) -> None:
    served(site, publisher)
    on_probation(site, publisher.model("1.1.0", limits=LONG))


def tested(site: Site, publisher: Publisher) -> None:
    served(site, publisher)
    site.wants(publisher.model("1.1.0", limits=Limits(probation_seconds=599)))
    site.turn_until(lambda: site.slot().state == "testing")


def refused(site: Site, publisher: Publisher) -> None:
    release = publisher.model("1.0.0", limits=Limits(latency_ms_max=1e-6))
    site.wants(release)
    site.turn_until(lambda: site.slot().state == "refused")


@pytest.mark.parametrize("comes_to", [served, tried, tested, refused])
def test_in_every_state_the_model_is_gone(site: Site, publisher: Publisher, comes_to: Callable[[Site, Publisher], None]) -> None:
    comes_to(site, publisher)

    site.slots.keep_models(frozenset({"other"}))
    for _ in range(30):  # what was on its way for it still arrives
        site.turn()

    check_gone(site)


def test_nothing_comes_back_after_a_restart(tmp_path: Path, publisher: Publisher) -> None:
    first = Site(tmp_path / "node", publisher.contents)
    first.start()
    served(first, publisher)
    first.slots.keep_models(frozenset())
    first.server.stop()
    first.store.close()

    again = Site(tmp_path / "node", publisher.contents)
    again.start()
    try:
        for _ in range(10):
            again.turn()
        check_gone(again)
    finally:
        again.server.stop()


def test_a_model_that_stays_is_served_all_the_while(site: Site, publisher: Publisher) -> None:
    served(site, publisher)

    site.slots.keep_models(frozenset({"m", "other"}))

    assert ask(site) == 200
    assert len(releases(site)) == 1


def test_requests_that_wait_for_a_release_are_refused_at_once(tmp_path: Path, publisher: Publisher) -> None:
    """After a restart a request waits for the release that was served: not for one of a model that is gone."""
    first = Site(tmp_path / "node", publisher.contents)
    first.start()
    served(first, publisher)
    first.server.stop()
    first.store.close()
    again = Site(tmp_path / "node", publisher.contents)
    again.server.expect("m")
    again.start()
    answers: list[Any] = []
    waiting = threading.Thread(target=lambda: answers.append(ask(again)))
    waiting.start()
    try:
        until("the request", lambda: "m" in again.server._pool.slots and again.server._pool.slots["m"].waiting)
        again.slots.keep_models(frozenset())
        waiting.join(5)
        assert answers == [404]
    finally:
        again.server.stop()


def test_the_model_can_come_again(site: Site, publisher: Publisher) -> None:
    served(site, publisher)
    site.slots.keep_models(frozenset())

    again: Release = publisher.model("2.0.0", limits=SHORT)
    settle(site, again)

    assert ask(site) == 200
    assert httpx.get(f"{site.url}/v2/models/m").json()["versions"] == ["2.0.0"]
