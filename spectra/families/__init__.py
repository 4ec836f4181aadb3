"""What differs between model families, as data and small functions.

`target_modules` finds which parts of a pipeline can carry a shift, and the weights of a live model that a target names
(what `unet-ca` means stands in `naming.target_subsets`); `denoise` says how each family is called in training.
"""

from spectra.families.target_modules import Target, components, targets

__all__ = ["Target", "components", "targets"]
