"""Verify what a hub signed: python-tuf's client over received documents."""
