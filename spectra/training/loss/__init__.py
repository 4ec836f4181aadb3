"""The training loss: a weighted sum of terms.

terms           what a term is, and what passes between terms, sources of samples and the loop
denoising       the main term and prior preservation: mean squared error of the prediction
unmix           keeps a special word's attention off another subject's half
build           makes the terms that a training asks for

A new term is a class with `name`, `weight_at` and `loss`. It is made in `build`, as one of the `extra_terms` of the
objective of which it judges the samples; the loop stays as it is.
"""
