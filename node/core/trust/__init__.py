"""Decide what time to trust, and what unverified metadata may be used for."""
