"""Pictures from a pipeline with shifts, and contact sheets of them."""
