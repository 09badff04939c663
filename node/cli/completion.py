"""`fleetcast-node completion`: what a shell needs to complete the device's commands."""

from fleetcast.cli.completion import completion_of

completion = completion_of("fleetcast-node")
