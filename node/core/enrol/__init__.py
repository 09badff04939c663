"""Decide when to renew a certificate."""
