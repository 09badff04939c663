"""The node's wiring: one loop that carries events to the cores and their commands to the shells. The only place that knows them all.

`loop` owns the inbox and the connection; `slots` carries out the lifecycle; `delivery` runs transfers; `telemetry` closes windows;
`status` says beside the broker how the agent stands.
"""
