"""The operator's side: publish, announce, serve blocks, follow receipts, test for drift. Installed as `fleetcast[hub]`."""
