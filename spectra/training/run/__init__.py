"""A whole training: checks, the loop, its state, and what it leaves behind."""
