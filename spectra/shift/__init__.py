"""Spectral shifts as plain data: vectors by weight name, their metadata, algebra and files. Needs no torch."""
