"""Imports what most commands import, for the server process of tests/warm.py; the modules of `cli` are left to each command.

A package whose names are looked up late imports nothing, so modules are named. `tests/test_warm.py` looks at what commands import besides.
"""

import gc

import click
import pyarrow.csv
import pyarrow.parquet
import rich.table
import tuf.api.serialization.json

import fleetcast.cli.lazy_group
import fleetcast.cli.list_choice
import fleetcast.cli.table_output
import hub.operations.blueprint
import hub.operations.node_classes
import hub.operations.node_rows
import hub.operations.opened_fleet
import hub.operations.opening
import hub.publish.builder
import hub.publish.variants
import hub.service.loop
import hub.settings
import hub.signing.tuf_repository
import node.agent.loop
import node.agent.reports.doctor_facts
import node.settings

gc.collect()
gc.freeze()  # a command neither looks through all of it for garbage nor copies the pages that it lies in

__all__ = ["click", "fleetcast", "hub", "node", "pyarrow", "rich", "tuf"]
