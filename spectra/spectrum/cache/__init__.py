"""The spectrum cache: entries that know their checksums, the files they lie in, and what they cost."""
