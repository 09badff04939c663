"""Imports what most commands import, for the server process of tests/warm.py; the modules of `cli` are left to each command."""

import pyarrow.csv
import pyarrow.parquet

import hub.publish.builder
import hub.publish.variants
import hub.service
import node.agent

__all__ = ["hub", "node", "pyarrow"]
