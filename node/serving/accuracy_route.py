"""Take from a site's programs how many answers were right and wrong: bounded and parsed here, durable at the agent before the answer.

    POST /v2/models/<model>[/versions/<version>]/labels   {"at": "2026-03-02T12:00:00Z", "right": 96, "wrong": 4, "id": "batch 17"}

Knows requests and responses, and nothing of what becomes of the counts.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from node.core.telemetry.accuracy import BODY_BYTES_MAX, LabelCounts, parse
from node.serving.bodies import Disconnected, read_body
from schemas.errors import Unreachable

WAITING_MAX: Final = 64  # requests: each is a write to the disk, and a program in a loop must not keep the agent from its other work
NAME_CHARACTERS_MAX: Final = 64  # A longer model or version is nobody's, and is not to fill the log.
TAKEN_SECONDS_MAX: Final = 30.0  # the agent's loop may be busy writing blocks; it takes its turn many times a second otherwise


@dataclass(frozen=True, slots=True, eq=False)
class LabelsReported:
    """Carry counts from a program, for the version named or the one that answered then; `done` gets the answer to it, or a refusal."""

    model: str
    version: str | None
    counts: LabelCounts
    done: Future[dict[str, Any]] = field(default_factory=Future)


OnLabels = Callable[[LabelsReported], object]


def label_routes(on_labels: OnLabels) -> list[Route]:
    """Return what to mount beside the Open Inference Protocol."""
    door = Door(on_labels)
    return [Route(f"/v2/models/{{model}}{version}/labels", door.take, methods=["POST"]) for version in ("", "/versions/{version}")]


class Door:
    """Pass counts on to the agent."""

    def __init__(self, on_labels: OnLabels) -> None:
        self._on_labels = on_labels
        self._waiting = 0

    async def take(self, request: Request) -> Response:
        """Answer POST .../labels.

        Raises:
            Refused: as node.core.telemetry.accuracy.parse and node.labels.take.
            Unreachable: the agent has no time; sent again with the same id, they are counted once.
        """
        try:
            counts = parse(await read_body(request.receive, BODY_BYTES_MAX))
        except Disconnected:
            return Response(status_code=400)  # nobody reads it
        if self._waiting >= WAITING_MAX:
            raise Unreachable(f"labels of {self._waiting} requests wait already; say it again")
        model, version = request.path_params["model"], request.path_params.get("version")
        event = LabelsReported(model[:NAME_CHARACTERS_MAX], version and version[:NAME_CHARACTERS_MAX], counts)
        self._waiting += 1
        try:
            self._on_labels(event)
            return JSONResponse(await asyncio.wait_for(asyncio.wrap_future(event.done), TAKEN_SECONDS_MAX))
        except TimeoutError:
            raise Unreachable("the node is busy; say it again, with the same id") from None
        finally:
            self._waiting -= 1
