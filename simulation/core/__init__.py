"""Compute how a rollout goes in virtual time, without a clock, a disk or a network."""
