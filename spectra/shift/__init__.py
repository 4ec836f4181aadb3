"""Spectral shifts as plain data: vectors by weight name, their metadata, sums and files. Needs no torch."""
