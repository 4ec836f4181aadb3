"""Singular values and vectors of frozen weights, their fingerprints, and the cache of both."""
