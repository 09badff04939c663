"""`fleetcast`: the operator's command line."""

from hub.cli.errors import guarded


def main() -> None:
    """Run one command; what is expected to go wrong ends in a sentence and an exit code, never in a traceback."""
    from hub.cli import command  # noqa: PLC0415  # inside the guard: even an import that fails is told in words

    guarded(lambda: command(prog_name="fleetcast"))


if __name__ == "__main__":
    main()
