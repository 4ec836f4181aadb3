"""Shifts of other implementations of SVDiff: their files read, converted to ours, and written."""
