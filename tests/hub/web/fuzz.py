"""Ask every operation of a real hub's API what its description allows and what it forbids: `python -m tests.hub.web.fuzz`.

schemathesis makes the requests from the OpenAPI document that the hub serves, by a seed. The stream of events, which does not end, is left
to tests/hub/web/test_event_stream.py. A request that the document allows may still be refused with 422: that a selector has a syntax, or
that stages rise, no schema says.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from bench.figures import Figure, write
from tests.hub.web.fleets import make_asked, served

COMMAND = "make test-api"
SEED, EXAMPLES, SECONDS_MAX = 17, 15, 900
CONFIG = """
[checks]
positive_data_acceptance.expected-statuses = ["2xx", "401", "403", "404", "409", "412", "422", "429"]
negative_data_rejection.expected-statuses = ["4xx"]
ignored_auth.enabled = true
"""
# Each is left out for the reason beside it.
LEFT_OUT = {
    "ignored_auth": "an address that sends bad tokens is answered with 429 from the 21st on; tests/hub/web/test_roles.py tries every route",
}


def run(url: str, token: str, folder: Path, *, seed: int, examples: int) -> tuple[int, int]:
    """Return how many different failures were found, and how many requests were sent."""
    (folder / "schemathesis.toml").write_text(CONFIG)
    command = [
        str(Path(sys.executable).parent / "schemathesis"),
        *("--config-file", str(folder / "schemathesis.toml"), "run", f"{url}/api/v1/openapi.json"),
        *("--header", f"Authorization: Bearer {token}", "--seed", str(seed), "--max-examples", str(examples)),
        *("--exclude-path", "/api/v1/events/stream", "--exclude-checks", ",".join(LEFT_OUT)),
        *("--report", "json", "--report-json-path", str(folder / "report.json"), "--continue-on-failure"),
        *("--suppress-health-check", "all", "--warnings", "off", "--request-timeout", "60"),
    ]
    done = subprocess.run(command, timeout=SECONDS_MAX, check=False, cwd=folder, env={**os.environ, "NO_COLOR": "1"})
    if done.returncode not in {0, 1}:
        raise SystemExit(f"schemathesis did not run: it ended with {done.returncode}")
    counted = json.loads((folder / "report.json").read_text())["test_cases"]
    return counted["unique_failures"] + counted["errored"], counted["generated"]


def main() -> int:
    """Run the command; 1 where something was found."""
    parser = argparse.ArgumentParser(prog="python -m tests.hub.web.fuzz", description=__doc__)
    parser.add_argument("--write", action="store_true", help="write bench/results.json")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--examples", type=int, default=EXAMPLES, help="requests of each operation and kind")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, served(make_asked(Path(folder) / "made")) as asked:
        asked.client.get("/api/v1/openapi.json", timeout=120).raise_for_status()  # It is made once; schemathesis waits 10 s for it.
        failures, requests = run(
            str(asked.client.base_url), asked.tokens["admin"], Path(folder), seed=options.seed, examples=options.examples
        )
    print(f"api: {failures} failures in {requests} requests, seed {options.seed}")
    if options.write:
        write([Figure("api.schemathesis_failures", failures, "failures", "0", "", None, COMMAND)])
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
