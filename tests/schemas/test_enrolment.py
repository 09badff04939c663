"""The token that an operator carries to a device: one text for one token, and nothing of a secret in what is said of a bad one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.enrolment import TOKEN_CHARACTERS_MAX, Token, pin_of
from schemas.errors import Code, Refused
from schemas.names import sha256

TOKEN = Token(pin=bytes(range(32)), secret=bytes(range(32, 64)))


@given(st.binary(min_size=32, max_size=32), st.binary(min_size=32, max_size=32))
def test_a_token_reads_as_it_was_written(pin: bytes, secret: bytes) -> None:
    token = Token(pin, secret)

    assert Token.parse(f"  {token}\n") == token
    assert len(str(token)) == 91 <= TOKEN_CHARACTERS_MAX


@given(st.text(max_size=300))
def test_any_other_text_is_refused_as_no_token(text: str) -> None:
    with pytest.raises(Refused) as told:
        Token.parse(text)

    assert told.value.code == Code.ENROLMENT_TOKEN


@pytest.mark.parametrize(
    "text",
    [
        str(TOKEN)[:-1],
        str(TOKEN) + "A",
        str(TOKEN).replace("ft1", "ft2"),
        str(TOKEN).replace(".", "", 1),
        str(TOKEN) + ".x",
        str(TOKEN) * 1000,
        str(TOKEN)[:60] + "/" + str(TOKEN)[61:],
    ],
)
def test_a_token_that_was_mistyped_is_refused_without_repeating_it(text: str) -> None:
    with pytest.raises(Refused) as told:
        Token.parse(text)

    assert str(TOKEN)[50:70] not in str(told.value)


def test_a_token_shows_no_secret_where_it_is_logged() -> None:
    assert str(TOKEN.secret) not in repr(TOKEN)


def test_another_authority_or_another_trust_root_is_another_pin() -> None:
    pins = {pin_of(key, sha256(root)) for key in (b"key a", b"key b") for root in (b"root a", b"root b")}

    assert len(pins) == 4
