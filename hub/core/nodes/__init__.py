"""Decide what the hub sets of nodes, and what a change of it means for them."""
