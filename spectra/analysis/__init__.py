"""What shifts are and how they differ: one file, two, or a folder of thousands. Needs no torch."""
