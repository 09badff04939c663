"""Run `fleetcast-node`, the device's command line."""

import sys

from fleetcast import interrupts
from fleetcast.cli import standard_streams


def main() -> None:
    """Run one command; whatever goes wrong ends in a sentence and an exit code, never in a traceback."""
    interrupts.install()  # before anything else is imported
    standard_streams.prepare()
    from node.cli.errors import guarded  # noqa: PLC0415

    guarded(_run)


def _run() -> None:
    from fleetcast.private_files import OWNER_ALONE, keep_new_files_private  # noqa: PLC0415
    from node.cli.commands import command  # noqa: PLC0415  # `guarded` reports a missing dependency, too

    keep_new_files_private(OWNER_ALONE)
    code = command(prog_name="fleetcast-node", standalone_mode=False)
    if isinstance(code, int) and code:
        sys.exit(code)  # click's own exits, such as after --help


if __name__ == "__main__":
    main()
