"""`fleetcast-node`: the device's command line."""

import sys

from node.cli.commands import command
from schemas.errors import Code, Refused, Unreachable

EXIT_REFUSED, EXIT_UNREACHABLE, EXIT_PORT_IN_USE, EXIT_DISK_FULL = 3, 4, 8, 7


def main() -> None:
    """Run one command; what is expected to go wrong ends in a sentence and an exit code, never in a traceback."""
    try:
        command(prog_name="fleetcast-node")
    except Refused as refusal:
        print(f"fleetcast-node: {refusal}", file=sys.stderr)  # noqa: T201
        sys.exit({Code.PORT_IN_USE: EXIT_PORT_IN_USE, Code.DISK_FULL: EXIT_DISK_FULL}.get(refusal.code, EXIT_REFUSED))
    except Unreachable as error:
        print(f"fleetcast-node: {error}", file=sys.stderr)  # noqa: T201
        sys.exit(EXIT_UNREACHABLE)


if __name__ == "__main__":
    main()
