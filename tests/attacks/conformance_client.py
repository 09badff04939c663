"""Our TUF client with the command line that tuf-conformance asks: `--metadata-dir DIR [...] init ROOT | refresh | download`.

The updater is a node's own, with its bounds, its pinned root and its errors; what a bundle holds on a node is fetched over HTTP here. The
suite is in no package registry: `make test-conformance TUF_CONFORMANCE=<its checkout>` runs it against this client.
"""

import argparse
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

import tuf.api.exceptions as tuf_errors

from node.trust import tuf_client
from node.trust.tuf_client import Trust
from schemas.errors import Refused

TARGETS = "targets/"


class Remote(Mapping[str, bytes]):
    """Metadata and targets of a repository, by name, as a message's would be."""

    def __init__(self, metadata: str, targets: str) -> None:
        self._bases = {True: targets.rstrip("/") + "/", False: metadata.rstrip("/") + "/"}
        self._found: dict[str, bytes | None] = {}

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self._get(name) is not None

    def __getitem__(self, name: str) -> bytes:
        found = self._get(name)
        if found is None:
            raise KeyError(name)
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0

    def _get(self, name: str) -> bytes | None:
        if name not in self._found:
            is_target = name.startswith(TARGETS)
            url = self._bases[is_target] + (quote(name.removeprefix(TARGETS)) if is_target else name)
            try:
                with urllib.request.urlopen(url, timeout=30) as answer:  # noqa: S310  # an address of loopback, from a test
                    self._found[name] = answer.read()
            except urllib.error.HTTPError:
                self._found[name] = None
        return self._found[name]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--metadata-dir", type=Path, required=True)
    parser.add_argument("--metadata-url", default="")
    parser.add_argument("--target-name", action="append", default=[])
    parser.add_argument("--target-base-url", default="")
    parser.add_argument("--target-dir", type=Path)
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("init").add_argument("trusted_root", type=Path)
    for verb in ("refresh", "download"):
        verbs.add_parser(verb)
    given = parser.parse_args(arguments)
    pinned = given.metadata_dir.with_name(f"{given.metadata_dir.name}.pinned")
    if given.verb == "init":
        pinned.write_bytes(given.trusted_root.read_bytes())
        (given.metadata_dir / "root.json").write_bytes(given.trusted_root.read_bytes())
        return 0
    try:
        trust = Trust(given.metadata_dir.with_name(f"{given.metadata_dir.name}.node"), pinned.read_bytes())
        updater = trust._updater(given.metadata_dir, Remote(given.metadata_url, given.target_base_url), datetime.now(UTC))
        updater.refresh()
        for name in given.target_name if given.verb == "download" else ():
            listed = updater.get_targetinfo(name)
            if listed is None:
                raise tuf_errors.RepositoryError(f"{name} is listed nowhere")
            path = str(given.target_dir / quote(name, safe=""))
            if updater.find_cached_target(listed, path) is None:
                updater.download_target(listed, path, tuf_client._BASE + TARGETS)
    except (Refused, tuf_errors.RepositoryError, tuf_errors.DownloadError, ValueError) as error:
        print(f"refused: {type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
