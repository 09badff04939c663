"""Every code says what is wrong and what mends it, and nothing else does."""

from fleetcast.error_help import MEANINGS
from schemas.errors import Code


def test_every_code_is_explained_in_the_order_of_the_codes() -> None:
    assert list(Code) == list(MEANINGS)
    assert all(wrong and mends for wrong, mends in MEANINGS.values())
