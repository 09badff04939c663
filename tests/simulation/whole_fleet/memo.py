"""Answer from memory what depends on bytes alone: metadata parsed, signatures checked, SQL compiled. The product does each anew.

In a simulated fleet every node checks the same few files, and every hub begins with an engine that knows no statement.
"""

import contextlib
from collections.abc import Iterator
from functools import lru_cache
from types import SimpleNamespace
from typing import Any
from unittest import mock

import zstandard
from securesystemslib.signer import Key, Signature, SSlibKey
from sqlalchemy import Engine, create_engine
from tuf.api.metadata import Metadata
from tuf.ngclient._internal import trusted_metadata_set

from hub.database import connection
from schemas import codec

KEPT = 8192


class _Parsed:
    """Stands for `Metadata` where a client of TUF parses what it never changes."""

    from_bytes = staticmethod(lru_cache(maxsize=KEPT)(Metadata.from_bytes))

    def __class_getitem__(cls, kind: object) -> type["_Parsed"]:
        return cls


_verify = SSlibKey.verify_signature


@lru_cache(maxsize=KEPT)
def _checked(key: "_SameKey", signature: str, data: bytes) -> None:
    """What is wrong is raised, and not remembered."""
    _verify(key.key, Signature(key.key.keyid, signature), data)


class _SameKey:
    """Is equal for keys that check alike."""

    def __init__(self, key: SSlibKey) -> None:
        self.key, self._name = key, (key.keytype, key.scheme, str(key.keyval))

    def __hash__(self) -> int:
        return hash(self._name)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _SameKey) and self._name == other._name


def _verified(self: Key, signature: Signature, data: bytes) -> None:
    assert isinstance(self, SSlibKey)
    _checked(_SameKey(self), signature.signature, data)


class _Compressor:
    """Stands for the one of documents, whose tables take longer to make than a document to compress."""

    def __init__(self, **settings: Any) -> None:
        self._settings = tuple(settings.items())

    def compress(self, data: bytes) -> bytes:
        return _compressed(self._settings, data)


@lru_cache(maxsize=KEPT)
def _compressed(settings: tuple[tuple[str, Any], ...], data: bytes) -> bytes:
    return zstandard.ZstdCompressor(**dict(settings)).compress(data)


_zstandard = SimpleNamespace(**{**vars(zstandard), "ZstdCompressor": _Compressor})
_first: list[Engine] = []


def _engine(*arguments: Any, **named: Any) -> Engine:
    """Share the compiled statements of the first engine with the others."""
    made = create_engine(*arguments, **named)
    _first.append(made) if not _first else None
    made.dialect, made._compiled_cache = _first[0].dialect, _first[0]._compiled_cache
    return made


@contextlib.contextmanager
def remembering() -> Iterator[None]:
    with (
        mock.patch.object(trusted_metadata_set, "Metadata", _Parsed),
        mock.patch.object(SSlibKey, "verify_signature", _verified),
        mock.patch.object(connection, "create_engine", _engine),
        mock.patch.object(codec, "zstandard", _zstandard),
    ):
        yield
