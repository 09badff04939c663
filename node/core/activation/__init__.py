"""Decide which release serves: lifecycle, golden test, shadow comparison, probation, parameters in effect."""
