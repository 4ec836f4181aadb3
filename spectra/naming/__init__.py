"""What weights are called: patterns and subsets over names, and the paper's layers of a UNet."""
