"""Decide what a blueprint means for a fleet: read it with positions, compare it with what is, say what is to be changed."""
