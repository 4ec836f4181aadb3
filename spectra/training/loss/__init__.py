"""The training loss: a weighted sum of terms.

terms           what a term and an objective are, and what passes between them and the loop
denoising       the main term and prior preservation: mean squared error of the prediction
unmix           keeps a special word's attention off another subject's half
noise_schedule  noisy latents, targets and min-SNR weights
build           makes the terms that a training asks for

A new term is a class with `name`, `weight_at` and `loss`, made in `build`. It judges samples of an objective that is
there already as one of its `extra_terms`, or is an objective with samples of its own; the loop stays as it is.
"""
