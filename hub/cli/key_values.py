"""Options of the form KEY=VALUE. A key has one value: of two, only one could count, and the other would be lost in silence."""

from collections.abc import Sequence

import click


def read_pairs(option: str, texts: Sequence[str], *, form: str = "KEY=VALUE", mend: str = "give only one of the two") -> dict[str, str]:
    """Return options of KEY=VALUE as a mapping, in their order.

    Raises:
        click.UsageError: one is not KEY=VALUE, or a key has two values.
    """
    found: dict[str, str] = {}
    for text in texts:
        key, sign, value = text.partition("=")
        if not (key and sign):
            raise click.UsageError(f"{option} {text!r} must be {form}")
        if found.setdefault(key, value) != value:
            raise click.UsageError(f"{option} {key!r} is given two values, {found[key]!r} and {value!r}: {mend}")
    return found
