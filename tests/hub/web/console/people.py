"""Somebody in front of the console: pages, forms and what is in them, without a browser."""

import re
from dataclasses import dataclass
from html import unescape
from typing import Any

import httpx

ORIGIN = {"origin": "http://localhost", "sec-fetch-site": "same-origin"}


@dataclass
class Person:
    """A client with a cookie."""

    client: Any

    @classmethod
    def signed_in(cls, client: Any, token: str) -> "Person":
        found = cls(client)
        answer = found.send("/login", {"token": token, "next": "/"})
        assert answer.status_code == 303, answer.text
        return found

    def get(self, path: str, **more: Any) -> httpx.Response:
        return self.client.get(path, **more)

    def page(self, path: str) -> str:
        answer = self.get(path)
        assert answer.status_code == 200, answer.text
        return str(answer.text)

    def send(self, path: str, fields: dict[str, str], **headers: str) -> httpx.Response:
        return self.client.post(path, data=fields, headers={**ORIGIN, **headers})

    def answer(self, path: str, **fields: str) -> httpx.Response:
        """Answer a question as its form does."""
        return self.send(path, {**hidden(self.page(path)), **fields})


def hidden(page: str) -> dict[str, str]:
    """The hidden fields of the form in a page."""
    form = page[page.index("<main") :]
    return {name: unescape(value) for name, value in re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)"', form)}


def text_of(page: str) -> str:
    """What somebody reads in a page."""
    body = re.sub(r"<(script|style)\b.*?</\1>", "", page[page.index("<main") :], flags=re.DOTALL)
    body = re.sub(r"</?(?:b|a|code|i)\b[^>]*>", "", body)
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]+>", " ", body))).strip()


def heading(page: str) -> str:
    found = re.search(r"<h1>(.*?)</h1>", page, flags=re.DOTALL)
    assert found, page
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]+>", "", found[1]))).strip()
