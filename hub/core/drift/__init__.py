"""Decide whether drift has begun: windows merged, intervals tested, evidence over time, streams judged together."""
