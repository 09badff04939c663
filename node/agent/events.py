"""Name everything that the agent's inbox may carry: events of the connection, documents, and events of the agent's own parts."""

from dataclasses import dataclass

from fleetcast.mqtt_connection import LinkEvent
from node.broker.mqtt import BlockArrived, ConnectionEvent, DocumentEvent
from node.core.activation.lifecycle import Target
from node.serving.accuracy_route import LabelsReported
from node.serving.activation import Prepared
from schemas.errors import Code, FleetcastError, Refused


@dataclass(frozen=True, slots=True)
class TransferEnded:
    """Report how a job ended; `refusal` is None when every file is on disk and verified."""

    model: str
    target: Target
    refusal: Refused | None


@dataclass(frozen=True, slots=True)
class TransferStalled:
    """Report that a job waits, for a reason that has a code; without one it goes on."""

    model: str
    target: Target
    code: Code | None
    reason: str


@dataclass(frozen=True, slots=True)
class WorkerReady:
    """Report that a worker was prepared, or why not."""

    model: str
    target: Target
    result: Prepared | Refused
    ticket: int  # The start that it is the end of.


@dataclass(frozen=True, slots=True)
class WorkerGone:
    """Report that a worker ended by itself."""

    model: str
    digest: bytes
    reason: str
    deaths: int  # in a row
    is_damaged: bool = False  # Whether the files that its successor would load differ from the manifest.


@dataclass(frozen=True, slots=True)
class EndpointAnswered:
    """Report which release answered on a model's endpoint, asked as clients ask, or why none did."""

    model: str
    target: Target  # that was expected
    number: int  # The question that it answers.
    answered_by: bytes | None
    error: FleetcastError | None


@dataclass(frozen=True, slots=True)
class ConnectionOpened:
    """Report how an attempt to reach the broker ended; without a failure the broker's answer follows."""

    failure: str


# From a part of this agent.
LocalEvent = TransferEnded | TransferStalled | WorkerReady | WorkerGone | EndpointAnswered | LabelsReported | ConnectionOpened
Incoming = LinkEvent | LocalEvent  # in the inbox, before messages are parsed
Event = ConnectionEvent | DocumentEvent | LocalEvent  # handled one at a time
Parsed = Event | BlockArrived  # blocks are handled in batches
