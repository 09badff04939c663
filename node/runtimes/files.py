"""Serve a release that another program on the device reads: nothing is run here, and the files are there."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from node.core.inference.tensors import Array
from node.runtimes import Options, Signature
from schemas.errors import Code, Refused


class Files:
    """Look that the first file can be read."""

    def load(self, path: Path, options: Options) -> None:
        """Do nothing but that."""
        try:
            with path.open("rb") as file:
                file.read(1)
        except OSError as error:
            raise Refused(Code.MODEL_LOAD, f"{path.name} cannot be read: {error.strerror}") from None

    def describe(self) -> Signature:
        """Return that it takes and gives nothing."""
        return Signature((), (), "files")

    def infer(self, inputs: Mapping[str, Array], parameters: Mapping[str, Any]) -> Sequence[Array]:
        """Return nothing, for nothing."""
        if inputs:
            raise Refused(Code.REQUEST_INVALID, "this release is files for another program: nothing is run here")
        return []

    def close(self) -> None:
        """Do nothing: nothing is held."""
