"""Announce what was signed and serve blocks."""
