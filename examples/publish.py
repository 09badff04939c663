"""Train a model, publish it to the hub, and roll it out: what examples/publish.yml runs on a tag.

FLEETCAST_HUB, FLEETCAST_TOKEN, FLEETCAST_KEY_FILE and FLEETCAST_PASSPHRASE_FILE say where, and by whose key.
"""

import argparse
import os
import sys
from pathlib import Path

import pandas as pd
from sklearn.linear_model import Ridge

import fleetcast

FEATURES = ["dep_delay", "hour", "distance", "wind_speed", "visibility"]


def main() -> None:
    """Publish a version; roll it out where that is asked for."""
    parser = argparse.ArgumentParser()
    parser.add_argument("version")
    parser.add_argument("--data", type=Path, default=Path("flights.parquet"))
    parser.add_argument("--name", default="delay")
    parser.add_argument("--roll-out", action="store_true")
    parser.add_argument("--stages", default="1,10,100")
    parser.add_argument("--soak", default="1h")
    given = parser.parse_args()

    frame = pd.read_parquet(given.data)
    model = Ridge().fit(frame[FEATURES], frame["arr_delay"])
    team = fleetcast.Key(os.environ["FLEETCAST_KEY_FILE"])

    with fleetcast.connect(os.environ["FLEETCAST_HUB"]) as fleet:
        release = fleet.publish(
            model, name=given.name, version=given.version, reference=frame[[*FEATURES, "day"]], blocks="day", signer=team
        )
        print(f"published {release.name}, {release.fetch_bytes} bytes to fetch; the rollout costs {fleet.plan(release).total_bytes} bytes")
        if given.roll_out:
            with fleet.roll_out(release, stages=given.stages, soak=given.soak) as rollout:
                for status in rollout:
                    print(status, flush=True)


if __name__ == "__main__":
    try:
        main()
    except fleetcast.FleetcastError as error:
        sys.exit(f"{error}\nmend: {error.mend}")
