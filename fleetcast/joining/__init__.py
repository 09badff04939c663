"""Prove that a model keeps the rows of several requests apart, so that they may be answered together: by its graph, and by trying."""
