"""A site's relay: each block once over the uplink, then to whoever at the site wants it. Believes nobody, and nobody needs to believe it.

`loop` owns both connections; `cache` is the disk; `library` says which payload a want is for.
"""
