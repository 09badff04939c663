"""Run the node: one loop that carries events to the cores and their commands to the shells. The only package that knows them all.

`loop` owns the inbox and the connection. The parts, by what they do: `activation` (model slots), `delivery` (transfers), `trust` (what the
fleet signed), `telemetry` (windows and the privacy accountant), `enrol` (certificates), `storage` (a disk in trouble), `reports` (state,
status, doctor).
"""
