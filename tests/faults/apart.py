"""Run cases, each in a fork of its own, and print what came of each, as the programs of this suite do: crashes, damage and acts.

A fork begins as every other does, and leaves nothing behind. Cases are given as JSON, or read from standard input, one a line.
"""

import argparse
import contextlib
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict
from typing import Any


def run_apart(
    case: Any,
    run: Callable[[Any], Any],
    found: Callable[..., Any],
    *,
    seconds: int,
    quietly: Callable[[], AbstractContextManager[Any]] = contextlib.nullcontext,
) -> dict[str, Any]:
    """Run one case in a fork. `found(case, broken=[...])` is what came of one whose process failed."""
    source, sink = os.pipe()
    child = os.fork()
    if child == 0:
        signal.alarm(seconds)
        with quietly(), os.fdopen(sink, "w") as file:
            try:
                file.write(json.dumps(asdict(run(case))))
            except BaseException:
                file.write(json.dumps(asdict(found(case, broken=[traceback.format_exc()]))))
        os._exit(0)
    os.close(sink)
    with os.fdopen(source) as file:
        text = file.read()
    _, status = os.waitpid(child, 0)
    return dict(json.loads(text)) if text else asdict(found(case, broken=[f"its process ended with status {status}"]))


def main(description: str | None, prepare: Callable[[], object], outcome: Callable[[dict[str, Any]], dict[str, Any]]) -> int:
    """Run the cases of the command line after `prepare`, and print the outcome of each as a line of JSON."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("cases", nargs="*", help="cases as JSON; from standard input, one a line, where there is none")
    arguments = parser.parse_args()
    prepare()
    for line in arguments.cases or sys.stdin:
        if line.strip():
            print(json.dumps(outcome(json.loads(line))), flush=True)
    return 0
