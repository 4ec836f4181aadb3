"""Whether a shift fits a base: names, lengths, fingerprints, and rounded copies."""
