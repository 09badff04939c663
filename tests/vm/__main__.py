"""Check the units under a real systemd, then cut the power, as `make test-vm` does: `python -m tests.vm [--cuts 20] [--write]`.

Needs Linux on x86-64, root (debootstrap makes a root file system), `qemu-system-x86`, `debootstrap`, and 6 GB of disk.
"""

import argparse
import os
import random
import shutil
import signal
import statistics
import sys
import tempfile
import time
from pathlib import Path

from bench.figures import Figure, write
from tests.vm import cuts as cutting
from tests.vm import image, units
from tests.vm.guest import QEMU, Guest
from tests.vm.plant import Plant

RELEASES = 6


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.vm", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cuts", type=int, default=20, help="how often the power is cut; 0 checks the units alone (default: 20)")
    parser.add_argument("--seed", type=int, default=1, help="of when it is cut, and of what the disk loses (default: 1)")
    parser.add_argument("--no-units", action="store_true", help="cut the power without checking the units first")
    parser.add_argument("--accelerator", default="tcg,thread=multi", help="of qemu: kvm where there is one (default: software emulation)")
    parser.add_argument("--keep", type=Path, help="folder for the disk and the logs, which are kept; the default is one that is removed")
    parser.add_argument("--write", action="store_true", help="write what was measured to bench/results.json")
    arguments = parser.parse_args()
    lacking = [name for name in (QEMU, "debootstrap", "mkfs.ext4", "unshare") if shutil.which(name) is None]
    if lacking or os.geteuid() != 0:
        print(
            f"test-vm needs root and these programs, of which it lacks {lacking}: apt-get install qemu-system-x86 debootstrap",
            file=sys.stderr,
        )
        return 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the machine is ended, and the disk removed
    with tempfile.TemporaryDirectory(prefix="fleetcast-vm-") as made:
        folder = arguments.keep or Path(made)
        folder.mkdir(parents=True, exist_ok=True)
        return run(folder, arguments)


def run(folder: Path, arguments: argparse.Namespace) -> int:
    rng, began = random.Random(arguments.seed), time.monotonic()
    guest = Guest(image.installed(folder, RELEASES), folder, arguments.accelerator)
    plant, found = Plant(guest), list[cutting.Cut]()
    checks = units.CHECKS if not arguments.no_units else ()
    failed: list[str] = []
    try:
        print(f"booted in {guest.boot():.0f} s", flush=True)
        plant.begin()
        print(f"enrolled, and serving {plant.version}.0.0", flush=True)
        for check in checks:
            at = time.monotonic()
            try:
                check(plant)
            except (AssertionError, TimeoutError) as error:
                failed.append(check.__name__)
                print(f"  FAILED: {check.__name__}: {error}", flush=True)
            else:
                print(f"  holds: {check.__name__} ({time.monotonic() - at:.0f} s)", flush=True)

        def done(number: int, one: cutting.Cut) -> None:
            found.append(one)
            print(
                f"cut {number}: {one.kind} (slot {one.slot}, {one.waiting} messages on their way;"
                f" disk: of {one.disk.writes} unflushed writes {one.disk.lost} lost, {one.disk.torn} torn);"
                f" booted in {one.boot_seconds:.0f} s, served {one.serving_seconds:.0f} s later, {len(one.losses)} losses;"
                f" {(time.monotonic() - began) / 60:.0f} min so far",
                flush=True,
            )

        if arguments.cuts:
            cutting.campaign(plant, arguments.cuts, rng, done)
    finally:
        guest.close()
    survived, lost = sum(not one.losses for one in found), len(plant.losses)
    record = plant.record
    print(
        f"{len(checks) - len(failed)} of {len(checks)} checks of units hold;"
        f" {survived} of {arguments.cuts} power cuts survived, {lost} lost;"
        f" {len(record.windows)} windows, {len(record.signed)} receipts, answers by status {plant.statuses}"
    )
    if arguments.write and found:
        write(figures(found, lost, len(checks) - len(failed)))
    return 1 if failed or lost or survived < arguments.cuts else 0


def figures(found: list[cutting.Cut], lost: int, held: int) -> list[Figure]:
    command = "make test-vm"
    kinds = ", ".join(f"{sum(one.kind == kind for one in found)} in {kind}" for kind in cutting.KINDS)
    discarded = sum(one.disk.lost + one.disk.torn for one in found)
    made = [
        Figure(
            "vm.power_cuts_survived", sum(not one.losses for one in found), f"power cuts: {kinds}", f">= {len(found)}", "", None, command
        ),
        Figure("vm.lost", lost, "windows, receipts, budgets, rollouts and answers lost", "<= 0", "", None, command),
        Figure("vm.disk_writes_lost", discarded, "unflushed writes that the disk lost or tore", "", "", None, command),
        Figure(
            "vm.serving_s",
            statistics.median(one.serving_seconds for one in found),
            "s from boot to an answer, emulated",
            "",
            "",
            None,
            command,
        ),
    ]
    return made + ([Figure("vm.unit_checks", held, "claims about the units, under a real systemd", "", "", None, command)] if held else [])


if __name__ == "__main__":
    raise SystemExit(main())
