"""Run the hub: one loop over one inbox. The only package that knows all of the hub's shells.

`loop` owns the inbox and the connection. The parts, by what they do: `broker` (the connection, the inbox, the embedded broker), `delivery`
(announcements, blocks), `rollouts` (the controller, the clock of listening), `telemetry` (states, receipts, windows, drift tests), `enrol`
(the HTTPS endpoint), `alerts` (the event log and its receivers).
"""
