"""Decide what settings are in force, of those that the site's file and the hub give."""
