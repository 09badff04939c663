"""What `releases remove` and `models remove` share: asking first, and signing where the key is, here or beside a folder."""

import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from schemas.errors import Code, Refused

if TYPE_CHECKING:
    from hub.client.hub_client import HubClient
    from hub.signing.tuf_repository import Repository

yes_option = click.option("--yes", is_flag=True, help="Do not ask for confirmation. Without a terminal it must be given.")


def confirm(question: str, *, yes: bool, where: str) -> None:
    """Ask the operator, on a terminal.

    Raises:
        Refused: there is nobody to ask.
        click.Abort: the operator says no.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise Refused(Code.SETTINGS_INVALID, f"{question} Without a terminal nobody can be asked: add --yes ({where})")
    click.confirm(question, abort=True, err=True)


def over_the_api(
    hub: "HubClient",
    model: str,
    version: str | None,
    *,
    force: bool,
    yes: bool,
    key: Path,
    secret: Callable[[], bytes],
) -> dict[str, Any]:
    """Remove a release or a model at a hub by a role that is signed here, and return what that has freed.

    Raises:
        Refused: it is needed, nobody can be asked, or the key may not sign it.
    """
    from hub.operations.remote_publishing import mirrored  # noqa: PLC0415  # with TUF, which lists do without
    from hub.signing.keys import load_signer  # noqa: PLC0415

    asked = hub.removal(model, version)
    if asked["needed"] is not None and not force:
        raise Refused(Code.RELEASE_NEEDED, str(asked["needed"]))
    confirm(str(asked["question"]), yes=yes or asked["is_left"], where=f"hub {hub.connection.place.url}")
    role = b""
    if not asked["is_left"]:
        signer = load_signer(key, secret())
        with mirrored(hub, model, hub.publishing(model)) as fleet:
            role = _signed(fleet.repository, model, version, signer)
    return hub.remove(model, version, role, force=force)


def _signed(repository: "Repository", model: str, version: str | None, signer: Any) -> bytes:
    from schemas.bundle import role_name  # noqa: PLC0415

    now = datetime.now(UTC)
    if version is None:
        repository.undelegate(model, targets=signer, now=now)
        found = repository.newest_role("targets")
    else:
        repository.remove_release(model, version, team=signer, now=now)
        found = repository.newest_role(role_name(model))
    assert found is not None  # noqa: S101  # it was signed above
    return found[1]
