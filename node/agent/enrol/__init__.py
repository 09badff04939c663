"""Enrol, and renew certificates while the agent runs."""
