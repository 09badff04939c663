"""Say how a tensor's shape differs from what a model declares: publishers and devices use the same sentence."""

from collections.abc import Sequence


def shape_fault(declared: Sequence[int], found: Sequence[int]) -> str | None:
    """Return what is wrong with a shape, where -1 declares a free axis, of 1 or more; None if it fits.

    A model may declare an axis of 0, and then takes nothing else there.
    """
    sides = f"expected {list(declared)}, found {list(found)}"
    if len(declared) != len(found):
        return sides
    for axis, (want, have) in enumerate(zip(declared, found, strict=True)):
        if want == have and have >= 0:
            continue
        if have < 0:
            return f"{sides}: axis {axis} of a tensor that is sent has a size, and -1 is none"
        if have == 0:
            return f"{sides}: axis {axis} is 0, so there is nothing to answer; send {want if want > 0 else 'at least 1'}"
        if want != -1:
            return f"{sides}: axis {axis} has to be {want}"
    return None
