"""Names of weights: subsets and patterns, blocks and kinds, and the paper's layers of a UNet."""
