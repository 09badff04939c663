"""Keep what the hub gave this device when it enrolled, in `<data>/enrolment/`. Verifies nothing: that is done before it is kept.

The answer is kept as one file, `kept`: written whole, synced, renamed. That is the moment of enrolment. Every other file is made from it
and can be made again: a device that is killed between two of them goes on from there. `settings.toml` is the last, and what
`fleetcast-node run` reads beneath the device's own `node.toml`.
"""

import fcntl
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

from pydantic import Field

from fleetcast import disk_room, durable
from fleetcast.mqtt_connection import BrokerUrl
from fleetcast.private_files import make_private_folder
from node.enrol.certificates import pem_of
from schemas import codec
from schemas.document import Document
from schemas.enrolment import Enrolled
from schemas.errors import Code, Refused
from schemas.limits import ENROLMENT_BYTES_MAX

FOLDER = "enrolment"
SETTINGS_NAME = "settings.toml"
KEY_NAME, NEXT_KEY_NAME = "device.pem", "device-next.pem"  # in the data folder
_KEPT = "kept"


class Kept(Document):
    """Hold the hub's answer, where the hub is, and the digest of the token that it was given for; never leaves the device."""

    schema_name = "kept-enrolment"
    bytes_max = ENROLMENT_BYTES_MAX + 4096

    hub: Annotated[str, Field(max_length=256)]
    token: Annotated[bytes, Field(max_length=32)] = b""
    at: int  # when it was enrolled or last renewed, by the hub's clock
    enrolled: Annotated[bytes, Field(min_length=1, max_length=ENROLMENT_BYTES_MAX)]

    @property
    def answer(self) -> Enrolled:
        """Return the hub's answer."""
        return codec.decode(Enrolled, self.enrolled)


class Enrolment:
    """Keep the enrolment of the device whose data folder this is."""

    def __init__(self, data: Path) -> None:
        self._data, self._folder = data, data / FOLDER

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the enrolment so that nobody else changes it meanwhile: a command at the device, or the agent that renews.

        Raises:
            Refused: the folder cannot be written.
        """
        try:
            make_private_folder(self._data)
            durable.make_folder(self._folder, mode=0o700)
            lock = (self._folder / "lock").open("ab")
        except OSError as error:
            code = disk_room.code_of(error, Code.SETTINGS_INVALID, errnos=disk_room.TAKES_NOTHING)
            raise Refused(code, f"{self._folder}: {error.strerror}") from None
        with lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            for left in self._folder.glob(".*"):  # A killed process left it.
                left.unlink(missing_ok=True)
            yield

    def kept(self) -> Kept | None:
        """Return what was kept; None when the device was never enrolled.

        Raises:
            Refused: it is there and damaged.
        """
        path = self._folder / _KEPT
        try:
            with path.open("rb") as file:
                data = file.read(Kept.bytes_max + 1)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise Refused(Code.SETTINGS_INVALID, f"{path}: {error.strerror}") from None
        try:
            return codec.decode(Kept, data)
        except Refused as refusal:
            raise Refused(Code.SETTINGS_INVALID, f"{path} is damaged, enrol again with a new token: {refusal.reason}") from None

    def keep(self, kept: Kept) -> None:
        """Keep an enrolment, or its renewal: durable when this returns.

        Raises:
            Refused: DISK_FULL or SETTINGS_INVALID when it cannot be written; nothing has changed.
        """
        write(self._folder / _KEPT, codec.encode(kept))

    def derive(self, kept: Kept) -> None:
        """Make every other file from what is kept, where it is not so already.

        Raises:
            Refused: as `keep`.
        """
        answer = kept.answer
        files = {
            "ca.crt": pem_of(answer.authority),
            "root.json": answer.root,
            "node.crt": pem_of(answer.certificate, answer.issuer),
            SETTINGS_NAME: _settings(kept.hub, answer).encode(),
        }
        for name, data in files.items():  # in this order: who reads the settings finds what they name
            path = self._folder / name
            if not path.exists() or path.read_bytes() != data:
                write(path, data)

    def take_next_key(self) -> None:
        """Put the key that the newest certificate is for in the place of the one before it."""
        durable.rename(self._data / NEXT_KEY_NAME, self._data / KEY_NAME)


def _settings(hub: str, answer: Enrolled) -> str:
    values = {"id": answer.node, "fleet": answer.fleet, "broker": answer.broker, "hub": hub, "root": "root.json"}
    if BrokerUrl.parse(answer.broker).tls:
        values |= {"tls_ca": "ca.crt", "tls_certificate": "node.crt", "tls_key": f"../{KEY_NAME}"}
    if answer.cohort is not None:
        values["cohort"] = answer.cohort
    lines = ["# From the hub: made again at every renewal. What a site wants otherwise goes into node.toml, which wins."]
    lines += [f"{name} = {json.dumps(value)}" for name, value in values.items()]
    if answer.labels:
        lines += ["", "[labels]", *(f"{json.dumps(name)} = {json.dumps(value)}" for name, value in sorted(answer.labels.items()))]
    return "\n".join(lines) + "\n"


def write(path: Path, data: bytes, *, mode: int = 0o600) -> None:
    """Write a file, by default readable by its owner only, whole or as it was.

    Raises:
        Refused: DISK_FULL or SETTINGS_INVALID when it cannot be written.
    """
    try:
        make_private_folder(path.parent)
        durable.write(path, data, mode=mode)
    except OSError as error:
        raise Refused(disk_room.code_of(error, Code.SETTINGS_INVALID), f"{path} could not be written: {error.strerror}") from None
