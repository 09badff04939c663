"""Every figure that the README quotes, against a peer measured in the same run: `make bench`."""
