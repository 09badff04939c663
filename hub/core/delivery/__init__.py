"""Decide how bytes travel: where files are cut, what a block is a delta of, how it is encoded."""
