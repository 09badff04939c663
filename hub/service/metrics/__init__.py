"""Expose to a monitoring system what the hub counts: figures that the loop gathers, and a small HTTP endpoint that shows them."""
