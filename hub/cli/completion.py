"""`fleetcast completion`: what a shell needs to complete our commands."""

from fleetcast.cli.completion import completion_of

completion = completion_of("fleetcast")
