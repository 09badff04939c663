"""Open a key that a program names. Nobody is asked for a passphrase: a program may run where nobody is."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from fleetcast.fleets.keys import PASSPHRASE_VARIABLE, Key
from hub.operations.opening import read_passphrase
from schemas.errors import Code, Refused

Signer = TypeVar("Signer")
MEND = f"give signer=fleetcast.Key(..., passphrase_file=...), or name the file in {PASSPHRASE_VARIABLE}"


def secret_of(key: Key) -> bytes:
    """Return the passphrase of a key; empty where none is given.

    Raises:
        Refused: its file cannot be read.
    """
    if key.passphrase is not None:
        return key.passphrase.encode()
    place = key.passphrase_place
    return read_passphrase(place) if place is not None else b""


def opened_key(key: Key, load: Callable[[Path, bytes], Signer]) -> Signer:
    """Return a signer.

    Raises:
        Refused: there is no such key, or its passphrase is missing or wrong.
    """
    secret = secret_of(key)
    try:
        return load(key.path, secret)
    except Refused as error:
        if error.code == Code.KEY_PASSPHRASE and not secret:
            raise Refused(error.code, f"{error.reason}: {MEND}") from None
        raise
