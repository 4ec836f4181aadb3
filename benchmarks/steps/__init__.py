"""One training step of each method: flops, memory, seconds, and the gradients that it comes to."""
