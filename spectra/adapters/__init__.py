"""Shifts on a live model: training them (`training_adapter`) and using them (`loaded_shifts`)."""
