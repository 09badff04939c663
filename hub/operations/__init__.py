"""What operators ask of a fleet and do to it, for the command line and the API alike: rows to show, and commands that are checked first.

Nothing here prints, asks a person, or knows HTTP.
"""
