"""Decide which process of a hub does what, and whether all that is to be done is done by one."""
