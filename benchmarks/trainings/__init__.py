"""Whole trainings on embedded subjects, judged by the pictures that they draw."""
