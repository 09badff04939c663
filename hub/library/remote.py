"""Fulfil what a program asks of a fleet over the API of its hub. Releases are built and signed here; the team's key stays here."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

from fleetcast.fleets.backend import Action, Progress
from fleetcast.fleets.fleet import Fleet
from fleetcast.fleets.keys import Key
from fleetcast.fleets.results import Done, PublishedRelease, Row
from hub.client.hub_client import HubClient, Operation
from hub.client.place import place_of

if TYPE_CHECKING:
    import os

LOOK_SECONDS: Final = 1.0  # A hub reads all nodes at most so often that it takes a tenth of a processor.
DEFAULT: Final = "default"


def connect_fleet(
    url: str,
    *,
    token: str | None = None,
    token_file: "str | os.PathLike[str] | None" = None,
    ca_file: "str | os.PathLike[str] | None" = None,
) -> Fleet:
    """Return the fleet of the hub at this address, once the hub has let the token in.

    Raises:
        Refused: the address, the token or the file of authorities cannot be used.
        Unreachable: the hub does not answer.
    """
    if token is not None and token_file is not None:
        raise TypeError("give token or token_file, not both")
    files = [None if one is None else str(one) for one in (token_file, ca_file)]
    client = HubClient(place_of(url, token=token, token_file=files[0], ca_file=files[1]))
    try:
        client.token()
    except BaseException:
        client.close()
        raise
    return Fleet(RemoteBackend(client))


class RemoteBackend:
    """Ask a hub."""

    look_seconds = LOOK_SECONDS

    def __init__(self, client: HubClient) -> None:
        self._client = client

    @property
    def place(self) -> str:
        """Return the hub's address."""
        return self._client.connection.place.url

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def summary(self) -> Row:
        """Return the fleet's name, its nodes by class, and how many streams drift."""
        return self._client.fleet()

    def models(self) -> Sequence[Row]:
        """Return a row for each model."""
        return list(self._client.models())

    def releases(self, model: str) -> Sequence[Row]:
        """Return a row for each release of a model."""
        return list(self._client.releases(model))

    def nodes(self, where: str | None) -> Sequence[Row]:
        """Return the nodes that a selector matches, by name."""
        return list(self._client.nodes(where))

    def node(self, name: str) -> Row:
        """Return one node."""
        return self._client.node(name)

    def drift(self, model: str | None, cohort: str | None) -> Sequence[Row]:
        """Return a row for each stream that is tested."""
        return self._client.drift(model, cohort)

    def rollouts(self, model: str | None) -> Sequence[Row]:
        """Return a row for each deployment."""
        return list(self._client.rollouts(model))

    def plan(self, model: str, wish: Mapping[str, Any], rates_bit_s: Mapping[str, float]) -> Row:
        """Return what a rollout would cost."""
        found = self._client.plan({**wish, "model": model, "rates_bit_s": dict(rates_bit_s), "nodes": True})
        return {**found, "changes": [{"from": one["deployment"], "nodes": one["nodes"]} for one in found["changes"]]}

    def start(self, wish: Mapping[str, Any], wait_seconds: float) -> tuple[Done, str]:
        """Start a rollout."""
        deployment = self._deployment_of(wish)
        return _done(self._client.start_rollout(wish, wait_seconds=wait_seconds)), deployment

    def _deployment_of(self, wish: Mapping[str, Any]) -> str:
        """Return the deployment that a rollout would be in: the hub chooses the name of one that a selector makes."""
        if "where" not in wish:
            return str(wish.get("deployment") or DEFAULT)
        asked = {name: wish[name] for name in ("model", "version", "where", "deployment") if name in wish}
        return str(self._client.plan(asked)["deployment"])

    def act(self, action: Action, model: str, deployment: str | None, wait_seconds: float) -> Done:
        """Have the hub do something with a rollout; without a deployment the only one is meant, or the default one."""
        if deployment is None:
            names = [str(row["deployment"]) for row in self._client.rollouts(model)]
            deployment = names[0] if len(names) == 1 else DEFAULT
        return _done(self._client.act(action, model, deployment, wait_seconds=wait_seconds))

    def operation(self, number: int) -> Done:
        """Return what became of something that the hub was asked to do."""
        return _done(self._client.wait_for(self._client.operation(number), 0.0))

    def events(self, after: int | None) -> Iterator[Row]:
        """Yield events as they happen."""
        for event in self._client.follow(after):
            yield asdict(event)

    def past_events(self, after: int) -> Iterator[Row]:
        """Yield the events that there are, the oldest first."""
        return self._client.events(after)

    def publish(
        self, model: object, fields: Mapping[str, Any], reference: object, *, signer: Key | None, breaking: bool, progress: Progress | None
    ) -> PublishedRelease:
        """Build and sign a release here, and send what the hub does not have."""
        if signer is None:
            raise TypeError("publish() over an API needs signer=fleetcast.Key(...): the team's key stays with the publisher")
        from hub.library.local import published, release_of, silent  # noqa: PLC0415  # with numpy and what reads a database
        from hub.library.materials import laid_out  # noqa: PLC0415
        from hub.library.signing import opened_key  # noqa: PLC0415
        from hub.operations.remote_publishing import publish  # noqa: PLC0415
        from hub.signing.keys import load_signer  # noqa: PLC0415

        with ExitStack() as stack:
            release, steps = release_of(stack, stack.enter_context(laid_out(model, fields, reference)), self._archs)
            team = opened_key(signer, load_signer)
            sent = publish(self._client, release, team=team, breaking=breaking, tell=progress or silent)
        return published(sent.built, steps, (), announced=True)

    def _archs(self) -> frozenset[str]:
        return frozenset(str(row["arch"]) for row in self._client.nodes() if row["arch"] is not None)


def _done(operation: Operation) -> Done:
    return Done(operation.id, operation.state, operation.text, operation.warnings, operation.notes)
