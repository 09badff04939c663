"""The doctor names a folder of trusted metadata that was removed under a node."""

import shutil
import time
from pathlib import Path

from node.agent.reports.doctor_facts import probe
from node.core.doctor.diagnosis import diagnose
from node.core.doctor.findings import Trouble
from node.host.pidfile import read_status
from tests.node.agent.test_loop import agent, running, until
from tests.trust_fleet import Fleet


def test_a_removed_trust_folder_is_found(tmp_path: Path) -> None:
    fleet = Fleet.make(tmp_path / "fleet")
    (tmp_path / "root.json").write_bytes(fleet.repository.root())
    settings = tmp_path / "node.toml"
    settings.write_text('id = "n1"\nfleet = "main"\nbroker = "mqtt://127.0.0.1:1"\ndata = "data"\nroot = "root.json"\n')

    def found() -> bool:
        return Trouble.FOLDER_TRUST in {finding.code for finding in diagnose(probe(settings, wall=time.time))}

    with running(agent(tmp_path, "mqtt://127.0.0.1:1", fleet=fleet)):
        until(lambda: read_status(tmp_path / "data") is not None)
        before = found()
        shutil.rmtree(tmp_path / "data" / "trust")
        after = found()

    assert (before, after) == (False, True)
