"""Run each role of a hub: all in one process, or apart in several."""
