"""Count, add noise, and account for the privacy budget."""
