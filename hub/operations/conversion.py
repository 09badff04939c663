"""Convert a model that is no ONNX yet, before it is published, and report what was done."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hub.publish.release_file import ReleaseFile


@contextmanager
def converted(release: "ReleaseFile", say: Callable[[str], None]) -> "Iterator[tuple[ReleaseFile, tuple[str, ...]]]":
    """Yield the release with its scikit-learn model as ONNX, and what was done, a sentence each; any other release as it is.

    `say` is called with each sentence as soon as it is known.

    Raises:
        Refused: the model cannot be read or converted.
    """
    from hub.publish.publish_request import ONNX  # noqa: PLC0415  # numpy takes a while to import
    from hub.publish.sklearn_model import compared, convert, is_sklearn  # noqa: PLC0415

    if not is_sklearn(release.model) or release.runtime not in (None, ONNX):
        yield release, ()
        return
    from hub.publish.reference_data import read_reference  # noqa: PLC0415

    with tempfile.TemporaryDirectory(prefix="fleetcast-converted-") as folder:
        done = convert(release.model, Path(folder))
        steps, reference = done.steps, release.reference
        if reference is not None:
            accuracy = release.accuracy.truth if release.accuracy else None
            passed_over = [name for name in (reference.blocks, reference.time, accuracy) if name]
            steps = *steps, compared(done, read_reference(reference.data), named=reference.columns, passed_over=passed_over)
        for step in steps:
            say(f"{step}.")
        yield release.model_copy(update={"model": done.path}), steps
