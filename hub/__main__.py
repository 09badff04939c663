"""`fleetcast`: the operator's command line."""

from fleetcast import interrupts
from fleetcast.cli import standard_streams


def main() -> None:
    """Run one command; what is expected to go wrong ends in a sentence and an exit code, never in a traceback."""
    interrupts.install()  # before anything else is imported
    standard_streams.prepare()
    from hub.cli.errors import guarded  # noqa: PLC0415

    def run() -> None:
        from fleetcast.private_files import OWNER_AND_GROUP, keep_new_files_private  # noqa: PLC0415
        from hub.cli.commands import command  # noqa: PLC0415  # inside the guard: even a failed import ends in a sentence

        keep_new_files_private(OWNER_AND_GROUP)
        command(prog_name="fleetcast", standalone_mode=False)  # click raises, and the guard alone says how it ends

    guarded(run)


if __name__ == "__main__":
    main()
