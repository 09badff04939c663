"""Keep what a node knows on disk: SQLite tables, artifacts, sideloaded bundles, and reports read from them."""
