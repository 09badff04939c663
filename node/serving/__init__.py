"""Answer local programs with the current release: Open Inference Protocol v2 over REST.

1. `server`: a listening socket and an asyncio loop in a thread of its own; the agent's thread-safe handle on all that follows.
2. `activation`: a staged release becomes a warm worker with evidence, or a refusal.
3. `worker_pool`: which worker answers which request; the switch, the retry after a crash, the new start, the comparison of two releases.
   It holds a `loaded_model` for each model; `batching` joins rows of requests that wait; `self_request` asks as a client would.
4. `oip_routes`, `chat`, `accuracy_route`: requests and responses, and nothing about workers.
"""

from node.serving.accuracy_route import LabelsReported
from node.serving.activation import Prepared, Staged
from node.serving.loaded_model import Observation, Stats
from node.serving.server import Listen, Server

__all__ = ["LabelsReported", "Listen", "Observation", "Prepared", "Server", "Staged", "Stats"]
