"""What a Python program holds of a fleet: its releases, plans, rollouts, nodes and drift. The fleet is in a folder or behind an API."""
