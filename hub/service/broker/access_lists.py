"""Compare the fleet's access lists for mosquitto with those that this version needs: an older list silently keeps topics from nodes."""

from pathlib import Path

from schemas.topics import access_list, consumer_access_list

FOLDER = "broker"
NODES, CONSUMERS = "acl", "acl-consumers"


def missing(directory: Path, fleet: str) -> list[str]:
    """Return the rules that the fleet's lists do not have, and this version needs; what else is in them is the operator's own.

    A list that is not in the fleet's folder is somewhere else, and nothing is known of it.
    """
    found: list[str] = []
    for name, wanted in ((NODES, access_list(fleet)), (CONSUMERS, consumer_access_list(fleet))):
        try:
            present = {line.strip() for line in (directory / FOLDER / name).read_text(encoding="utf-8").splitlines()}
        except (OSError, UnicodeDecodeError):
            continue
        found += [line for line in wanted.splitlines() if line and not line.startswith("#") and line not in present]
    return found


def in_words(rules: list[str]) -> str:
    """Say that lists are older than this version, with an example and the mend."""
    more = f" and {len(rules) - 1} more" if len(rules) > 1 else ""
    return (
        f"the access lists in broker/ are older than this version: {rules[0]!r}{more} is missing, so that mosquitto keeps messages from "
        f"nodes or consumers; `fleetcast access-list --write` makes them anew, then give them to mosquitto and have it reload them"
    )
