"""Fulfil what a Python program asks of a fleet: in process on its folder (`fleetcast.open`), or over an API (`fleetcast.connect`)."""
