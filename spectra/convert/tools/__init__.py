"""What other tools make of a file of changes: which keys each loads, ignores, or reads otherwise than is meant."""
