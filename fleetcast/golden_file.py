"""Read and write golden inputs and their outputs: the npz that publishers send and devices read."""

import io
import lzma
import struct
import zipfile
import zlib
from collections.abc import Mapping
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from schemas.errors import Code, Refused, mismatch

# All that zipfile, its decompressors and numpy raise of bytes that are no npz.
_UNREADABLE = (
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, ValueError, EOFError, KeyError, OSError, RuntimeError, MemoryError),
    *(IndexError, OverflowError, SyntaxError, struct.error),
)


def pack_golden(inputs: Mapping[str, npt.NDArray[Any]], outputs: Mapping[str, npt.NDArray[Any]]) -> bytes:
    """Return the npz; the same arrays give the same bytes."""
    target = io.BytesIO()
    arrays = {f"{side}.{name}": array for side, half in (("input", inputs), ("output", outputs)) for name, array in half.items()}
    # Texts as fixed-width ones: a file with pickled objects is refused by every node.
    fixed: dict[str, Any] = {name: array.astype(np.str_) if array.dtype == np.object_ else array for name, array in arrays.items()}
    np.savez_compressed(target, **fixed)
    return target.getvalue()


def plain_arrays(what: str, file: IO[bytes], code: Code, *, bytes_max: int) -> dict[str, npt.NDArray[Any]]:
    """Return the arrays of an npz, nothing unpickled, nothing allocated before its size is known.

    Raises:
        Refused: with `code`: no npz, objects in it, or more than `bytes_max` bytes unpacked.
    """
    found: dict[str, npt.NDArray[Any]] = {}
    try:
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
            total = sum(member.file_size for member in members)
            if total > bytes_max:
                raise mismatch(code, f"{what}: bytes unpacked", expected=f"at most {bytes_max}", actual=total)
            for member in members:
                with archive.open(member) as stream:
                    _check_header(stream, member.file_size)
                with archive.open(member) as stream:
                    found[member.filename.removesuffix(".npy")] = np.lib.format.read_array(stream, allow_pickle=False)
    except _UNREADABLE as error:
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise Refused(code, f"{what} is not an npz of plain arrays: {reason[:200]}") from error
    return found


def _check_header(stream: IO[bytes], bytes_max: int) -> None:
    version = np.lib.format.read_magic(stream)
    header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = header(stream)
    count = 1
    for axis in shape:
        count *= int(axis)  # Python's own integers: numpy's product would wrap around
    if dtype.hasobject or count * dtype.itemsize > bytes_max:
        raise ValueError(f"an array of {dtype}{list(shape)} in {bytes_max} bytes")
