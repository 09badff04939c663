"""`fleetcast-node doctor`: what is wrong with this node, and how it is mended."""

import json
import sys
import time
from pathlib import Path

import click

from fleetcast.cli.terminal_text import plain
from node.cli.errors import Exit
from node.cli.long_running import log_to_stderr
from node.cli.options import json_option, settings_option
from node.core.doctor.diagnosis import diagnose


@click.command()
@settings_option
@json_option
def doctor(path: Path, as_json: bool) -> None:
    """Check this node for the usual faults.

    Checked are settings, folder, disk, clock, DNS, certificates, broker, trust, runtimes, memory, port and service.

    The agent may run at the same time. A broker that does not answer takes up to a minute. The codes of findings never change. The command
    ends with 0 when nothing is wrong, with 1 when there are only warnings, and with 2 when there are troubles.

    \b
    Examples:
      fleetcast-node doctor
      fleetcast-node doctor --json | jq -r '.[].code'
    """
    from node.agent.reports.doctor_facts import probe  # noqa: PLC0415  # half a second of imports that --help does not need

    log_to_stderr()  # what a probe logs has no place in the JSON
    talks = sys.stderr.isatty()
    facts = probe(
        path, wall=time.time, step=lambda what: click.echo(f"\r\033[Klooking at {what} ...", nl=False, err=True) if talks else None
    )
    if talks:
        click.echo("\r\033[K", nl=False, err=True)
    found = diagnose(facts)
    if as_json:
        rows = [{"code": str(one.code), "level": one.level, "what": one.what, "mend": one.mend} for one in found]
        click.echo(json.dumps(rows, indent=2))
    else:
        for one in found:
            click.echo(f"{one.level}: {plain(one.what)} [{one.code}]\n  mend: {one.mend}")
        if not found:
            click.echo("Nothing is wrong.")
    worst = {one.level for one in found}
    sys.exit(Exit.TROUBLES if "trouble" in worst else Exit.WARNINGS if worst else Exit.OK)
