"""Decide what to drop and whom to turn away when too much comes at once."""
