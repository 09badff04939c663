"""Write golden inputs and their outputs as the npz that publishers send and devices read."""

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt


def pack_golden(inputs: Mapping[str, npt.NDArray[Any]], outputs: Mapping[str, npt.NDArray[Any]]) -> bytes:
    """Return the npz; the same arrays give the same bytes."""
    target = io.BytesIO()
    arrays = {f"{side}.{name}": array for side, half in (("input", inputs), ("output", outputs)) for name, array in half.items()}
    # Texts as fixed-width ones: a file with pickled objects is refused by every node.
    fixed: dict[str, Any] = {name: array.astype(np.str_) if array.dtype == np.object_ else array for name, array in arrays.items()}
    np.savez_compressed(target, **fixed)
    return target.getvalue()
