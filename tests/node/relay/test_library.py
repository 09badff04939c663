"""A relay's library, beside a newer hub."""

import msgpack

from node.relay.library import Library
from schemas import codec
from schemas.block_request import Range, Want
from schemas.bundle import ManifestBytes, ModelBundle
from schemas.names import sha256
from tests.node.agent.hubs import release


def test_a_relay_serves_the_releases_beside_a_manifest_that_it_does_not_understand() -> None:
    manifest, _ = release(b"weights")
    document = codec.encode(manifest)
    newer = msgpack.packb(codec._canonical({**msgpack.unpackb(document), "version": "1.1.0", "explanation": "shap"}))
    library = Library(lambda digest: None)

    library.add(ModelBundle(model="m", role=b"{}", manifests=(ManifestBytes("1.0.0", document), ManifestBytes("1.1.0", newer))))

    want = Want(release=sha256(document), variant="v", ranges=(Range(0, 1),), encodings=("raw",))
    assert len(library.pieces(want)[1]) == 1
