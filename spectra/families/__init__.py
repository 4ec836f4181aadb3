"""What differs between model families, as data and small functions.

`components` says which parts of a pipeline can carry a shift, `subsets` which weights a name such as `unet-ca`
stands for, and `denoise` how each family's denoiser is called in training.
"""

from spectra.families.components import component_of, components
from spectra.families.targets import Target, select, targets
from spectra.naming.patterns import SUBSETS

__all__ = ["SUBSETS", "Target", "component_of", "components", "select", "targets"]
