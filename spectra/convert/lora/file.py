"""A LoRA file that is written one weight at a time.

A module that the original repositories fuse (`original_names`) has the pairs of all its weights, one after the other:
down stacks theirs, and each has its own columns of up in its own rows, zero elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from spectra.convert.lora.keys import LoraKeys
from spectra.convert.shifted_base import StoredDtype, rounded_to
from spectra.io.tensor_files import create_file, write_rows
from spectra.naming.original_names import Shapes, architecture


class LoraFile:
    """A LoRA file of some weights of a base, by their ranks: all zeros, then filled in weight by weight.

    Args:
        shapes: of the base's weights.
        ranks: of those in the file.
    """

    def __init__(
        self,
        path: Path,
        keys: LoraKeys,
        shapes: Shapes,
        ranks: Mapping[str, int],
        dtype: StoredDtype,
        metadata: Mapping[str, str],
    ) -> None:
        self._keys, places = keys, keys.places(shapes)
        rows: dict[str, int] = {}
        for each in places.values():
            rows[each.module] = max(rows.get(each.module, 0), each.stop)
        self._rank: dict[str, int] = {}
        self._places = {name: places[name] for name in ranks}
        self._columns: dict[str, int] = {}
        for name, place in sorted(self._places.items(), key=lambda item: item[1].start):
            self._columns[name] = self._rank.get(place.module, 0)
            self._rank[place.module] = self._columns[name] + ranks[name]
        largest = max(self._rank.values())
        # diffusers (0.42) takes the commonest alpha for a UNet's attention, whatever each module's is; of transformers
        # it passes over that of the last layer, which then has to be its rank.
        one_alpha = architecture(shapes) not in ("sd3", "flux", "chroma", "flux2", "qwen-image", "z-image")
        self._alpha = {module: largest if one_alpha else rank for module, rank in self._rank.items()}
        tensors: dict[str, tuple[str, tuple[int, ...]]] = {}
        for name, place in self._places.items():
            rank, (_, *rest) = self._rank[place.module], shapes[name]
            tensors[place.module + keys.down] = (dtype, (rank, *rest))
            ones = (1 for _ in rest[1:])  # a convolution's is 1 x 1
            tensors[place.module + keys.up] = (dtype, (rows[place.module], rank, *ones))
            if keys.alpha:
                tensors[f"{place.module}.alpha"] = ("float32", ())
        self._stored = create_file(path, tensors, {**keys.metadata(ranks, shapes), **metadata})
        for module, alpha in self._alpha.items() if keys.alpha else ():
            write_rows(self._stored[f"{module}.alpha"], torch.tensor(float(alpha)))

    def write(self, name: str, up: Tensor, down: Tensor) -> float:
        """Fill in the tensors of a weight, up `[rows, k]` and down `[k, columns]`; returns `||stored - exact||^2`.

        Where the file has an alpha, its scale, alpha / rank, is undone in the values.
        """
        place = self._places[name]
        module, first, rank = place.module, self._columns[name], self._rank[place.module]
        root = math.sqrt(self._alpha[module] / rank) if self._keys.alpha else 1.0
        own_up, own_down = self._stored[module + self._keys.up], self._stored[module + self._keys.down]
        stored_up, stored_down = (
            rounded_to(own.dtype, factor / root, module) for own, factor in ((own_up, up), (own_down, down))
        )
        wide = stored_up.new_zeros(len(up), rank)
        wide[:, first : first + len(down)] = stored_up
        write_rows(own_up, wide, place.spans)
        write_rows(own_down, stored_down, ((first, first + len(down)),))
        # ||A B - A' B'||^2 = sum((C^T C) * (D D^T)) with C = [A, -A'], D = [B; B'], so that no product is formed.
        c = torch.cat([up, -stored_up.to(up) * root], dim=1)
        d = torch.cat([down, stored_down.to(down) * root])
        return max(0.0, float(((c.T @ c) * (d @ d.T)).sum()))
