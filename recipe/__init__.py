"""The recipe of the embedded base: from icon sets to a small text-to-image pipeline (`python -m recipe`)."""
