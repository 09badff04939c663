"""Generators that run in a checkout and ship in no wheel: pages of documentation, drawn from the code that they describe."""
