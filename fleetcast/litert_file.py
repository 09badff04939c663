"""Read of a .tflite file whether its model keeps something from one request to the next. It needs no library.

The file is a flatbuffer of TensorFlow Lite's schema, version 3: tables whose first word leads to a list of where their fields are.
"""

import mmap
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path

from fleetcast.counted import counted

OPERATOR_CODES_MAX = 4096
_OPERATOR_CODES = 1  # Field of Model.
_DEPRECATED_CODE, _CODE = 0, 3  # Fields of OperatorCode: a byte, and a word in newer files.
_VARIABLES = {142: "VAR_HANDLE", 143: "READ_VARIABLE", 144: "ASSIGN_VARIABLE"}  # BuiltinOperator


class NoModel(ValueError):
    """Signal that the bytes are no .tflite file."""


def variable_operators(view: memoryview) -> tuple[str, ...]:
    """Return the operators by which a model reads or writes variables, which live as long as it is loaded.

    The state of recurrent operators is not among them: a runtime can set it back before each request.

    Raises:
        NoModel: the bytes are no .tflite file.
    """
    try:
        return tuple(name for code, name in _VARIABLES.items() if code in set(_codes(view)))
    except (struct.error, IndexError):
        raise NoModel("cut short, or a place that is not in the file") from None


def variable_operators_of(path: Path) -> tuple[str, ...]:
    """Return the same for a file, which is mapped and not read into memory.

    Raises:
        NoModel: it is no .tflite file, or is empty.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        try:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except ValueError as error:
            raise NoModel(str(error)) from None
        with data, memoryview(data) as view:
            return variable_operators(view)


def keeps_variables(operators: Sequence[str]) -> str:
    """Return why a model with these operators is not served, and what to do."""
    return (
        f"the model keeps variables between requests ({', '.join(operators)}), so that one client would change another's answer; "
        "make the state an input and an output of the model, and have the client send it back"
    )


def _codes(view: memoryview) -> Iterator[int]:
    if bytes(view[4:8]) != b"TFL3":
        raise NoModel("no TFL3 at its beginning")
    model = _word(view, 0)
    listed = _field(view, model, _OPERATOR_CODES)
    if listed is None:
        return
    vector = listed + _word(view, listed)
    count = _word(view, vector)
    if count > OPERATOR_CODES_MAX:
        raise NoModel(f"{counted(count, 'kind')} of operators")
    for number in range(count):
        at = vector + 4 + 4 * number
        table = at + _word(view, at)
        old, new = _field(view, table, _DEPRECATED_CODE), _field(view, table, _CODE)
        yield max(view[old] if old is not None else 0, _word(view, new) if new is not None else 0)


def _field(view: memoryview, table: int, number: int) -> int | None:
    """Return where a table's field is; None where it has its default."""
    fields = table - int(struct.unpack_from("<i", view, table)[0])
    if fields < 0:
        raise NoModel("a table without fields")
    size: int = struct.unpack_from("<H", view, fields)[0]
    place = 4 + 2 * number
    if place + 2 > size:
        return None
    offset: int = struct.unpack_from("<H", view, fields + place)[0]
    return table + offset if offset else None


def _word(view: memoryview, at: int) -> int:
    return int(struct.unpack_from("<I", view, at)[0])
