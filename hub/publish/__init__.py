"""Turn a model and its reference data into a release: read, cut, encode, build variants, prove, describe."""
