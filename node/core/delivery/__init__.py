"""Decide what to ask for and what a transfer may cost."""
