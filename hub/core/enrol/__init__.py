"""Decide which device gets a certificate: tokens, renewals, and how often an address may fail."""
