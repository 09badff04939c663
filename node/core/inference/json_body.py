"""Read the JSON object of a request, and say what is wrong with one that cannot be read. Knows no protocol."""

import json
import sys
from collections.abc import Callable
from typing import Any, Final

from node.core.inference.tensors import refuse_request

DEEP: Final = "the JSON of the body is nested deeper than any request has to be"


def json_object(body: bytes, *, constants: Callable[[str], Any] | None = None) -> dict[str, Any]:
    """Return the object; `constants` takes NaN and the infinities, which JSON does not have.

    Raises:
        Refused: REQUEST_INVALID: it is no object, no UTF-8 or no JSON, is nested too deep, or has a number of too many digits.
    """
    try:
        found = json.loads(body, parse_constant=constants)
    except RecursionError:
        raise refuse_request(DEEP) from None
    except UnicodeDecodeError as error:
        raise refuse_request(f"the JSON of the body is not UTF-8: byte {error.start} (counted from 0)") from None
    except json.JSONDecodeError as error:
        if not body.lstrip().startswith(b"{"):
            raise refuse_request("the body does not begin with a JSON object") from None
        reason = error.msg[:1].lower() + error.msg[1:]
        raise refuse_request(f"the JSON of the body cannot be read: {reason}, at character {error.pos} (counted from 0)") from None
    except ValueError:  # Python's own bound: reading a number takes the square of its digits.
        raise refuse_request(f"the JSON of the body has a number of more than {sys.get_int_max_str_digits()} digits") from None
    if not isinstance(found, dict):
        raise refuse_request("the body does not begin with a JSON object")
    return found
