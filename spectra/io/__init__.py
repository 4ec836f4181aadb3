"""Files: atomic writes, TOML, and tensors read or written where they lie."""
