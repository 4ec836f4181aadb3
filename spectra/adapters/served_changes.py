"""What shifts that exist do to weights: their sum for a model, or a row of changes for the samples of a batch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from spectra.adapters.adapter_weights import Weights
from spectra.adapters.bind import ALL
from spectra.adapters.binding import Binding
from spectra.layers.change import Change, tensor_of
from spectra.shift.shift import SpectralShift
from spectra.shift.sums import Parts, sum_terms, sum_words, weighted_sum
from spectra.spectrum.spectrum import Spectrum


def needed_directions(shift: SpectralShift) -> dict[str, int]:
    """How many leading directions of each weight a shift changes, for `bind.bind`; `ALL` if it is most."""
    used = {name: Parts(delta).directions for name, delta in shift.items()}
    return {name: ALL if 2 * used[name] > len(delta) else used[name] for name, delta in shift.items()}


def has_directions(binding: Binding | None, needed: int) -> bool:
    """Whether a weight is bound with as many directions as are `needed`."""
    if binding is None or binding.target.weight.ndim == 1 or isinstance(binding.spectrum, Spectrum):
        return binding is not None
    known = 0 if binding.spectrum is None else binding.spectrum.sigma.shape[0]
    return needed != ALL and needed <= known


def total_changes(terms: Iterable[tuple[Weights, SpectralShift]], names: Iterable[str]) -> dict[str, Change]:
    """The sum of scaled shifts for these weights, as far as shifts have them.

    Computed in float64 and rounded once; deltas are `[r]`, and absent where zero. One shift at scale 1 is as it is.
    """
    chosen, made = list(terms), {}
    for name in names:
        scaled = [(weights.of(name), shift) for weights, shift in chosen if name in shift]
        if len(scaled) == 1 and scaled[0][0] == 1:
            shift = scaled[0][1]
            delta, outer, word = shift[name], shift.outer.get(name), shift.words.get(name)
        elif scaled:
            total = weighted_sum([shift[name] for _, shift in scaled], [scale for scale, _ in scaled])
            delta = total.astype(np.float32)
            outer = sum_terms([(scale, shift.outer[name]) for scale, shift in scaled if name in shift.outer])
            words = [(scale, shift.words[name]) for scale, shift in scaled if name in shift.words]
            word = sum_words(words) if words else None
        else:
            continue
        own = tensor_of(delta) if delta.any() else None
        made[name] = Change.of_parts(own, outer, word)
    return made


def stacked(rows: Sequence[Change], device: torch.device) -> Change:
    """One change with a row for each of `rows`, zero where a row lacks what another has.

    Deltas are of the same directions. Terms are filled up to as many as the longest row has; where some rows have
    kernels and others none, all are written without. The ids are those of all rows.
    """
    a = _filled([row.a for row in rows])
    if a is None:
        b, kernel = None, None
    elif len({row.kernel is None for row in rows if row.a is not None}) > 1:
        b, kernel = _filled([None if row.a is None else row.right for row in rows]), None
    else:
        b, kernel = _filled([row.b for row in rows]), _filled([row.kernel for row in rows])
    ids = tuple(dict.fromkeys(token for row in rows for token in row.ids))
    word = _filled([_rows_of(ids, row) for row in rows])
    change = Change(_filled([row.delta for row in rows]), a, b, kernel, word, ids)
    return change.map(lambda tensor: tensor.to(device))


def _rows_of(ids: Sequence[int], row: Change) -> Tensor | None:
    """A row's word with a vector for each of `ids`."""
    if row.word is None:
        return None
    vectors: Mapping[int, Tensor] = dict(zip(row.ids, row.word, strict=True))
    return torch.stack([vectors.get(token, torch.zeros_like(row.word[0])) for token in ids])


def _filled(rows: Sequence[Tensor | None]) -> Tensor | None:
    """`[shifts, ...]`, every row filled up with zeros to the length of the longest; None where all are."""
    there = [row for row in rows if row is not None]
    if not there:
        return None
    longest = max(len(row) for row in there)
    made = there[0].new_zeros(len(rows), longest, *there[0].shape[1:])
    for number, row in enumerate(rows):
        if row is not None:
            made[number, : len(row)] = row
    return made
