"""Run a release in a worker process, or inline: both ends of the pipe."""
