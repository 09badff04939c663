"""Ask a hub over its API: what the command line with `--hub`, and programs with a token, call instead of a fleet's folder."""
