"""Shifts on the Hugging Face Hub: found, fetched, and published with a card."""
