"""Decide what a hub does, without a clock, a disk, a network or a thread."""
