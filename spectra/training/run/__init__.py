"""A whole training: `train(config)`, `train_together(concepts)`.

concepts        several concepts from a TOML file
inputs          everything given, checked before anything slow
training        the parts of a training, in order
steps           all steps, and what is told, written and drawn between them
loop            one step
batches         what concepts draw for it, and which of that a process computes
optimizer       the optimizers by name, clipping
lr_schedule     learning rates over the steps
averages        what the training gives, where that is an average of its steps
accelerator     device and precision
concept_parameters  the parameters of all concepts, on one base
state           saving and resuming exactly
contents        what lies at paths, by which it is known again
interruption    Ctrl-C between two steps
validation      pictures on the way, and the sheet before and after
judgement       what the training came to, in words
files           what is written on the way and at the end
report          summary, log, loss curve
outputs         where files go, whole or not at all
"""
