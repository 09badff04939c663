"""Carry out the lifecycle of model slots, and sign receipts."""
