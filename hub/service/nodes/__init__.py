"""Sign what the hub sets of nodes, and keep it published."""
