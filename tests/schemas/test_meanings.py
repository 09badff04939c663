"""Every code says what is wrong and what mends it, and nothing else does."""

from schemas.errors import Code
from schemas.meanings import MEANINGS


def test_every_code_is_explained_in_the_order_of_the_codes() -> None:
    assert list(Code) == list(MEANINGS)
    assert all(wrong and mends for wrong, mends in MEANINGS.values())
