"""Shifts on a live model: training (`adapter`) and using them (`serving`)."""
