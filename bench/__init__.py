"""Measures every figure that pages quote, beside a peer in the same run: `make bench`."""
