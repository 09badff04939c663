"""Local programs ask, the current release answers: Open Inference Protocol v2 over REST.

1. `server`: a listening socket and an asyncio loop in a thread of its own; the agent's thread-safe handle on all that follows.
2. `activation`: a staged release becomes a warm worker with evidence, or a refusal.
3. `routing`: which worker answers which request; the switch, the retry after a crash, the new start, the comparison of two releases.
   `held` is what it holds, `batching` joins rows of requests that wait, `probing` asks as a client would.
4. `http`, `chat` and `labels`: requests and responses, and nothing about workers.
"""

from node.serving.activation import Prepared, Staged
from node.serving.held import Observation, Stats
from node.serving.labels import LabelsSaid
from node.serving.server import Listen, Server

__all__ = ["LabelsSaid", "Listen", "Observation", "Prepared", "Server", "Staged", "Stats"]
