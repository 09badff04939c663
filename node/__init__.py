"""Verify, fetch, prove, serve, and say in noisy counts what was seen. Installed as `fleetcast[node]`."""
