"""New shifts from others: merging, mixing layers, adjusting one. Needs no torch."""
