"""What a training takes, counted before anything is loaded: floats, bytes, memory by part, and what makes it fit."""
