"""Ask an endpoint as a client does: which release do clients get? Asked on the way of every request, and counted nowhere."""

from collections.abc import Callable

import structlog

from node.core.inference.oip import encode_response
from node.serving.loaded_model import LoadedModel
from node.serving.worker_pool import CLIENTS_FAULT, WorkerPool
from node.workers.worker_handle import Runner
from schemas.errors import Code, FleetcastError, Refused

log = structlog.get_logger(__name__)

Done = Callable[[bytes | None, FleetcastError | None], None]


def start_probe(pool: WorkerPool, model: str, done: Done) -> None:
    """Begin one; `done` hears which release answered, or why none did, unless the pool is closed before."""
    pool.spawn(_probe(pool, model, done))


async def _probe(pool: WorkerPool, model: str, done: Done) -> None:
    try:
        loaded = await pool.probe(model, _ask)
    except FleetcastError as error:
        done(None, error)
    except Exception as error:
        log.exception("probe.failed", model=model)
        done(None, Refused(Code.WORKER_CRASHED, f"asking failed by our own fault: {type(error).__name__}"))
    else:
        done(loaded.staged.digest, None)


async def _ask(loaded: LoadedModel, worker: Runner, *, alone: bool) -> LoadedModel:
    model, version = loaded.staged.model, loaded.staged.version
    try:
        request = loaded.own_request()
        outputs = await worker.infer(request.inputs, loaded.parameters.runtime)  # never joined: nobody's answer depends on ours
        encode_response(request, model=model, version=version, answers=outputs)
    except Refused as refusal:
        if refusal.code not in CLIENTS_FAULT:
            raise
        log.info("probe.not_taken", model=model, version=version, code=refusal.code, reason=refusal.reason)  # by this release's endpoint
    return loaded
