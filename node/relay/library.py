"""Find which payload a want is for: by the manifests that are on `model/<name>`, and their block lists.

Nothing here is verified but by digest: a want names its release by the digest of the manifest, so a false one maps nothing.
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from node.core.delivery.relay import Source
from node.core.delivery.transfer import Piece
from schemas import codec
from schemas.block_request import Want
from schemas.bundle import ModelBundle
from schemas.encoding import decode_payload
from schemas.errors import Code, Refused
from schemas.manifest import Block, File, Index, Manifest
from schemas.names import sha256

log = structlog.get_logger()

MODELS_MAX = 256  # a site's; a hostile broker may announce more
LISTS_KEPT = 16  # block lists of variants, kept decoded


@dataclass(frozen=True, slots=True)
class Lacking:
    """Hold parts of a block list that have to be fetched before the want can be understood."""

    source: Source
    pieces: tuple[Piece, ...]


class Library:
    """Keep manifests and block lists; `read` gives a payload from the disk."""

    def __init__(self, read: Callable[[bytes], bytes | None]) -> None:
        self._read = read
        self._models: OrderedDict[str, dict[bytes, Manifest]] = OrderedDict()
        self._lists: OrderedDict[Source, tuple[Block, ...]] = OrderedDict()

    def add(self, bundle: ModelBundle) -> None:
        """Take in a model's current manifests; nothing can be asked of one that is not understood, and the others are as good."""
        manifests = {}
        for version, document in bundle.manifests:
            try:
                manifests[sha256(document)] = codec.decode(Manifest, document)
            except Refused as refusal:
                log.warning("manifest.refused", model=bundle.model, version=version, code=refusal.code, reason=refusal.reason)
        self._models[bundle.model] = manifests
        self._models.move_to_end(bundle.model)
        while len(self._models) > MODELS_MAX:
            self._models.popitem(last=False)

    def pieces(self, want: Want) -> tuple[Source, tuple[Piece, ...]] | Lacking:
        """Return what a want asks for.

        Raises:
            Refused: there is no such release, variant or block, or they are too many.
        """
        source = Source(want.release, want.variant, want.index)
        numbered = self._numbered(source)
        if isinstance(numbered, Lacking):
            return numbered
        picked = ((number, block, want.payload_of(block)) for number, block in want.pick(numbered))
        return source, tuple(Piece(number, payload, block, (), block.choices.index(payload)) for number, block, payload in picked)

    def _numbered(self, source: Source) -> tuple[Block, ...] | Lacking:
        files = self._files(source)
        parts = tuple(part for file in files for part in file.index)
        if source.index:
            return parts
        if source not in self._lists:
            listed, lacking = self._listed(files, parts)
            if lacking:
                return Lacking(Source(source.release, source.variant, index=True), lacking)
            self._lists[source] = listed
            while len(self._lists) > LISTS_KEPT:
                self._lists.popitem(last=False)
        self._lists.move_to_end(source)
        return self._lists[source]

    def _files(self, source: Source) -> tuple[File, ...]:
        for manifests in self._models.values():
            if source.release in manifests:
                try:
                    return manifests[source.release].files_of(source.variant)
                except KeyError:
                    what = f"release {source.release.hex()[:16]} has no variant {source.variant!r}"
                    raise Refused(Code.RELEASE_UNKNOWN, what) from None
        raise Refused(Code.RELEASE_UNKNOWN, f"there is no release {source.release.hex()[:16]}")

    def _listed(self, files: tuple[File, ...], parts: tuple[Block, ...]) -> tuple[tuple[Block, ...], tuple[Piece, ...]]:
        """Return all blocks, or the parts of the lists that are not here."""
        read = {part.digest: self._part(part) for part in parts}
        lacking: list[Piece] = []
        for number, part in enumerate(parts):
            if read[part.digest] is None:
                payload = min((one for one in part.choices if one.parents is None), key=lambda one: one.bytes)
                lacking.append(Piece(number, payload, part, (), part.choices.index(payload)))
        if lacking:
            return (), tuple(lacking)
        blocks = [file.blocks or tuple(block for part in file.index for block in read[part.digest] or ()) for file in files]
        return tuple(block for one in blocks for block in one), ()

    def _part(self, part: Block) -> tuple[Block, ...] | None:
        for payload in part.choices:
            data = self._read(payload.digest) if payload.parents is None else None
            if data is not None:
                return codec.decode(Index, decode_payload(payload, part, data)).blocks
        return None
