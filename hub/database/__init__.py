"""Keep what the hub knows in SQL: nodes, receipts, rollouts, intervals, drift tests, alerts, enrolments."""
