"""Diagnose a node from facts."""
