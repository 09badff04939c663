"""Run a site's relay: each block once over the uplink, then to every node at the site. A relay needs no trust and gives none.

`relay_loop` owns both `connections`; `cache` is the disk; `library` says which payload a request for blocks is for.
"""
