"""Training a shift: pictures -> latents -> loop over objectives -> delta -> SpectralShift.

config  the settings: one frozen dataclass, TOML in and out
data    what a training sees: pictures, prompts, latents
loss    the terms of the loss
run     checks, the steps, saved states, and what a training leaves behind
"""
