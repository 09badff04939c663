"""Run transfers: block sources, byte quota, jobs."""
