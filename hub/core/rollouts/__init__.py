"""Decide who runs what: stages, gates, cost, parameters, and which alarms a rollout has to answer for."""
