"""Training a shift: pictures -> latents -> loop over objectives -> delta -> SpectralShift.

config        one frozen TrainConfig; TOML in and out
concepts      several to be trained together, from a TOML file
subject       what is learnt: instance pictures and their prompts
pictures      reading pictures strictly, resized and cropped
latents       pictures and prompts as the model takes them, cached or not
prior         pictures of the class, drawn by the frozen base and kept
objectives    terms of the loss
stack         the deltas of all concepts, on one base
loop          the steps
state         saving and resuming exactly
validation    pictures on the way, and the sheet before and after
report        loss curve, log and summary
checks        every input, before anything slow
outputs       where files go, whole or not at all
run           all of it, in order: `train(config)`, `train_together(concepts)`
"""
