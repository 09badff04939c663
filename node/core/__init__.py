"""Decide for a node, without a clock, a disk, a network or a thread."""
