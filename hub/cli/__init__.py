"""The operator's commands, one file a verb. Wiring: they know the shells, and nothing knows them. `commands` puts them under one name.

Nothing is imported here: `errors` has to work where a dependency of the others is not installed.
"""
