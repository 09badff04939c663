"""Keep the control tokens of a model's chat template apart from the words of those who talk to it.

llama.cpp renders a conversation to one text and looks for control tokens in all of it, so that `<|im_end|>` in a user's words would end the
user's turn. Where words hold such a text, the template is rendered around placeholders, the template's pieces are tokenised with control
tokens and the words without, and the model is given the tokens. Other conversations, which are nearly all, go the ordinary way.
"""

import http.client
import json
import re
import secrets
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final
from urllib.parse import urlsplit

from node.core.inference.chat_request import SPOKEN
from schemas.errors import Code, Refused

ANSWER_SECONDS_MAX: Final = 20.0  # for a few milliseconds of work, on a device where everything else is going on
MARK: Final = re.compile(r"[<\[|].+[>\]|]", re.DOTALL)  # how the tokens look with which templates mark turns
PLAIN: Final = ({"role": "user", "content": "Hello"},)
BETWEEN: Final = "\n"

Messages = Sequence[Mapping[str, Any]]


class Prompts:
    """Render and tokenise with llama.cpp's own endpoint, which listens on loopback and knows nobody but us."""

    def __init__(self, address: str, key: str) -> None:
        self._host, self._key = urlsplit(address).netloc, key
        self._marks: dict[int, str] | None = None

    def tokens_apart(self, messages: Messages) -> list[int] | None:
        """Return the prompt of a conversation as tokens, its words without control tokens; None where the words hold none anyway.

        Raises:
            Refused: REQUEST_INVALID, the template does not take this conversation; MODEL_RUN, it takes none.
        """
        if self._marks is None:
            self._marks = self._marks_of(self._plain())
        words = BETWEEN.join(message[name] for message in messages for name in SPOKEN if name in message)
        with_marks, without = self._tokens(words, parse_special=True), self._tokens(words, parse_special=False)
        if with_marks == without and not any(token in self._marks for token, _ in without):
            return None
        return self._apart(messages)

    def _plain(self) -> list[str]:
        try:
            return self._pieces(PLAIN)[0::2]
        except Refused as refusal:
            raise Refused(Code.MODEL_RUN, f"the chat template refuses a plain conversation: {refusal.reason}") from None

    def _apart(self, messages: Messages) -> list[int]:
        pieces = self._pieces(messages)
        marks = self._marks_of(pieces[0::2])
        tokens: list[int] = []
        for number, piece in enumerate(pieces):
            if number % 2 == 0:
                tokens += [token for token, _ in self._tokens(piece, parse_special=True, add_special=number == 0)]
            else:
                tokens += self._words(piece, marks)
        return tokens

    def _words(self, text: str, marks: Mapping[int, str]) -> list[int]:
        """Return the tokens of somebody's words. A mark that the tokeniser always takes for one (a "user defined" token) is cut in two."""
        tokens: list[int] = []
        for token, _ in self._tokens(text, parse_special=False):
            mark = marks.get(token)
            parts = [] if mark is None else [*self._tokens(mark[:1], parse_special=False), *self._tokens(mark[1:], parse_special=False)]
            tokens += [token] if mark is None else [part for part, _ in parts if part not in marks]
        return tokens

    def _pieces(self, messages: Messages) -> list[str]:
        """Return pieces of the template and of the conversation's words, in turn. White space around words stays with the template, which
        may trim it.
        """
        places: dict[str, str] = {}
        prefix = f"w{secrets.token_hex(8)}x"

        def placed(text: str) -> str:
            words = text.strip()
            if not words:
                return text
            place = f"{prefix}{len(places)}w"
            places[place] = words
            before, _, after = text.partition(words)
            return before + place + after

        marked = [{name: placed(value) if name in SPOKEN else value for name, value in message.items()} for message in messages]
        rendered = str(self._answer("/apply-template", {"messages": marked})["prompt"])
        pieces = re.split(rf"({prefix}\d+w)", rendered)
        return [places.get(piece, "") if number % 2 else piece for number, piece in enumerate(pieces)]

    def _marks_of(self, pieces: Iterable[str]) -> dict[int, str]:
        found = (one for piece in pieces for one in self._tokens(piece, parse_special=True))
        return {token: text for token, text in found if isinstance(text, str) and len(text) > 2 and MARK.fullmatch(text.strip())}

    def _tokens(self, text: str, *, parse_special: bool, add_special: bool = False) -> list[tuple[int, Any]]:
        """Return tokens with their texts, which are lists of bytes where they are no whole characters."""
        asked = {"content": text, "add_special": add_special, "parse_special": parse_special, "with_pieces": True}
        return [(one["id"], one["piece"] if isinstance(one["piece"], str) else None) for one in self._answer("/tokenize", asked)["tokens"]]

    def _answer(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        connection = http.client.HTTPConnection(self._host, timeout=ANSWER_SECONDS_MAX)
        try:
            headers = {"Content-Type": "application/json", "Authorization": f"Bearer {self._key}"}
            connection.request("POST", path, json.dumps(body), headers)
            response = connection.getresponse()
            answer = json.loads(response.read())
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise Refused(Code.MODEL_RUN, f"llama.cpp does not answer {path}: {type(error).__name__}") from None
        finally:
            connection.close()
        if response.status != 200:
            fault = answer.get("error", answer) if isinstance(answer, dict) else answer
            message = fault.get("message", fault) if isinstance(fault, dict) else fault
            raise Refused(Code.REQUEST_INVALID, f"llama.cpp: {str(message)[:300]}")
        return dict(answer)
