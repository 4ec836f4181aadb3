"""LoRA files (and LoHa, LoKr): read as a change of each weight, and written from a shift."""
