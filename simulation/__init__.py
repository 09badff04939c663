"""Simulate a rollout before it begins: real cores for a sample of the fleet, and numpy, calibrated on them, for the rest."""
