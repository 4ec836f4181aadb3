"""What differs between model families, as data and small functions.

`components` says which parts of a pipeline can carry a shift, `targets` which of their weights a name such as
`unet-ca` stands for, and `denoise` how each family's denoiser is called in training.
"""

from spectra.families.target_modules import Target, components, targets

__all__ = ["Target", "components", "targets"]
