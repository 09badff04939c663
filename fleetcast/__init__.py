"""What a program imports, and what hub and node share that does not cross the wire: the MQTT connection, the block server, error help.

Importing this package imports nothing of `hub` or `node`.
"""
