"""Hold the revisions of the hub's schema, the oldest first. Each has its own copy of the tables that it makes."""
