"""Turn served requests into windows, and account for privacy."""
