"""Decide what a release holds: signals, baseline, noise, accuracy, checks."""
