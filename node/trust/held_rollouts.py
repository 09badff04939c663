"""Keep the last rollouts that this node understood, of models whose present one it does not: their parameters stay in force."""

from collections.abc import Collection, Mapping
from pathlib import Path

import structlog

from fleetcast import disk_room, durable
from schemas import codec
from schemas.errors import Refused
from schemas.names import check_name
from schemas.rollout import Rollout

log = structlog.get_logger()

FOLDER = "held"


class HeldRollouts:
    """Hold them in a folder, a file a model. They were verified when they came; the caller holds the lock of the folder above."""

    def __init__(self, directory: Path) -> None:
        self._folder = directory / FOLDER

    def read(self, models: Collection[str]) -> Mapping[str, Rollout]:
        """Return what is kept of these models; what is damaged is left out."""
        found: dict[str, Rollout] = {}
        for model in models:
            try:
                with (self._folder / check_name("model", model)).open("rb") as file:
                    rollout = codec.decode(Rollout, file.read(Rollout.bytes_max + 1))
            except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
                continue
            except Refused as refusal:
                log.warning("rollout.not_restored", model=model, code=str(refusal.code), reason=refusal.reason)
                continue
            if rollout.model == model:
                found[model] = rollout
        return found

    def write(self, held: Mapping[str, Rollout]) -> None:
        """Keep these, durably, and no others."""
        known = {path.name: path for path in self._folder.iterdir()} if self._folder.is_dir() else {}
        if not held and not known:
            return
        with disk_room.refusing(f"no room on the disk for {self._folder}", errnos=disk_room.FULL_OR_READ_ONLY):
            durable.make_folder(self._folder)
            for model, rollout in held.items():
                raw = codec.encode(rollout)
                if model not in known or known[model].read_bytes() != raw:
                    durable.write(self._folder / model, raw)
            for name in known.keys() - held.keys():
                known[name].unlink(missing_ok=True)
