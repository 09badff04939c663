"""The device's commands, one file a verb. Wiring: they know the shells, and nothing knows them. `commands` puts them under one name."""
