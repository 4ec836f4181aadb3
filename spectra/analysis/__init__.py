"""Looking at shifts: one file, the difference of two, or a folder of thousands. Needs no torch."""
