"""Decide which node runs which release: stages, gates, cost, parameters, and which alarms a rollout has to answer for."""
