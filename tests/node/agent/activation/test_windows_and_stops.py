"""When a release may be activated, and what is left when a first release is taken back: the real store, server and workers."""

from collections.abc import Callable
from pathlib import Path

from node.trust.tuf_client import Release
from schemas.errors import Code
from schemas.manifest import Limits
from tests.node.agent.activation.test_activation import affine, ask, contents, publish, said, settle, site  # noqa: F401
from tests.node.agent.sites import Site


def test_what_is_staged_waits_for_its_window_also_over_a_restart_and_then_goes_on(
    site: Site,  # noqa: F811
    publish: Callable[..., Release],  # noqa: F811
) -> None:
    old, new = publish("1.0.0", affine(2.0)), publish("2.0.0", affine(3.0))
    settle(site, old)
    site.window_open = False

    site.wants(new, b"b" * 16)
    site.turn_until(lambda: site.slot().code == Code.WINDOW_CLOSED)
    assert (site.slot().state, ask(site).json()["model_version"]) == ("staged", "1.0.0")
    site.slots.resume(site.now())  # as a new process does
    site.turn()
    assert (site.slot().state, site.slot().code) == ("staged", Code.WINDOW_CLOSED)

    site.window_open = True
    site.turn_until(lambda: said(site, new)[-1:] == ["serving"])
    assert (ask(site).json()["model_version"], site.slot().code) == ("2.0.0", "")


def test_a_node_that_serves_nothing_does_not_wait_for_a_window(site: Site, publish: Callable[..., Release]) -> None:  # noqa: F811
    site.window_open = False
    settle(site, publish("1.0.0", affine(2.0)))


def test_a_first_release_that_is_taken_back_is_served_no_more_and_can_come_again(
    site: Site,  # noqa: F811
    publish: Callable[..., Release],  # noqa: F811
) -> None:
    first = publish("1.0.0", affine(2.0))
    settle(site, first)

    site.slots.stopped("m", site.now())

    assert said(site, first) == ["serving", "rolled_back"]
    assert site.receipts()[-1].code == Code.ROLLOUT_TAKEN_BACK
    assert (site.slot().state, site.slot().serving) == ("idle", None)
    assert ask(site).status_code == 404
    assert not site.server.loaded_of("m")
    site.slots.stopped("m", site.now())
    assert said(site, first) == ["serving", "rolled_back"]  # once
    site.wants(first, b"again".ljust(16))
    site.turn_until(lambda: said(site, first)[-1:] == ["serving"] and site.slot().state == "active")
    assert ask(site).status_code == 200


def test_power_cuts_in_probation_are_marks_against_the_release(
    tmp_path: Path,
    publish: Callable[..., Release],  # noqa: F811
    contents: dict[bytes, bytes],  # noqa: F811
) -> None:
    old, new = publish("1.0.0", affine(2.0)), publish("2.0.0", affine(3.0), limits=Limits(probation_seconds=600))
    first = Site(tmp_path / "node", contents)
    first.start()
    settle(first, old)
    first.wants(new, b"b" * 16)
    first.turn_until(lambda: said(first, new)[-1:] == ["serving"])
    first.slots.left()  # A service manager that restarts the agent is no mark.
    first.server.stop()

    serving = []
    for _ in range(4):
        here = Site(tmp_path / "node", contents)
        here.start()
        here.turn_until(lambda here=here: ask(here).status_code == 200)  # type: ignore[misc]
        serving.append(ask(here).json()["model_version"])
        here.server.stop()

    assert serving == ["2.0.0", "2.0.0", "2.0.0", "1.0.0"]
    assert (said(here, new)[-1], here.slot().state, here.slot().code) == ("rolled_back", "rolled_back", Code.PROBATION_CUT)
