"""A process that signs for as long as it leads a fleet, and says what it has signed: a file of keys is its fleet's."""

import json
import sys
import time
from datetime import timedelta
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from securesystemslib.signer import CryptoSigner

from hub.database.connection import Database
from hub.database.leadership import Deposed, Leadership
from hub.database.place import MARKER
from hub.signing.parsed_metadata import parsed
from hub.signing.tuf_repository import Repository
from schemas.errors import Unreachable
from tests.trust_fleet import NOW, Fleet

KEYS = ("snapshot", "timestamp")


def keep_keys(fleet: Fleet, path: Path) -> None:
    """Write the keys that the process signs with."""
    form = Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
    path.write_text(json.dumps({name: fleet.keys[name]._private_key.private_bytes(*form).decode() for name in KEYS}))  # type: ignore[attr-defined]


def folder_of(directory: Path, url: str) -> Path:
    """A machine's folder of a fleet whose metadata is in the database; return where its repository is."""
    (directory / "trust").mkdir(parents=True, exist_ok=True)
    (directory / "trust" / MARKER).touch()
    (directory / "fleet.toml").write_text(f'database_url = "{url}"\n')
    return directory / "trust"


def main(name: str, url: str, directory: str) -> None:
    """Be a candidate until it leads; then sign timestamps, one after the other, until another leads."""
    found = json.loads((Path(directory) / "keys").read_text())
    keys = {one: CryptoSigner(load_pem_private_key(pem.encode(), None)) for one, pem in found.items()}
    leadership = Leadership(Database(url), holder=name)
    repository = Repository(Path(directory) / "trust", fence=leadership.fence)
    print("ready", flush=True)
    while not leadership.try_to_lead():
        time.sleep(0.1)
    print("leads", leadership.term, flush=True)
    while True:
        try:
            version = parsed(repository.trust_bundle().timestamp).signed.version
            repository.refresh(snapshot=keys["snapshot"], timestamp=keys["timestamp"], now=NOW + (version + 1) * timedelta(hours=2))
        except Deposed as error:
            print("deposed", str(error).replace(" ", "-"), flush=True)
            return
        except Unreachable:  # It was stopped in the middle: the server has ended the transaction.
            continue
        print("signed", version + 1, flush=True)
        time.sleep(0.02)


if __name__ == "__main__":
    main(*sys.argv[1:])
