"""Move rollouts and look releases up."""
