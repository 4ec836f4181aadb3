"""What differs between model families, as data and small functions: a file for each, which fills a `Family`.

`family` says what there is to fill, `known` lists them all and finds a pipeline's, `noise_schedule` has the ways that
noise is added; docs/families.md tells how to add one. `target_modules` finds which parts of a pipeline can carry a
shift, and the weights of a live model that a target names (what `unet-ca` means stands in `naming.target_subsets`).
"""

from spectra.families.target_modules import Target, components, targets

__all__ = ["Target", "components", "targets"]
