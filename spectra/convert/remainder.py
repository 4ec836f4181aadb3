"""What a diagonal, and outer terms, leave of a change: products with it, without a matrix of it in float64."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from spectra.convert.projection import panels
from spectra.spectrum.partial import PartialSpectrum
from spectra.spectrum.spectrum import matrix


@dataclass(frozen=True, eq=False)
class Remainder:
    """`R = D - near diag(d) far`, its smaller side first: `[r, m]`. It is computed in float64, a few columns at a time.

    Attributes:
        change: `D`, `[r, m]`, of any floating dtype.
        near, far, d: `[r, n]`, `[n, m]` and float64 `[n]`.
        flipped: rows and columns of the weight's matrix are exchanged here.
    """

    change: Tensor
    near: Tensor
    far: Tensor
    d: Tensor
    flipped: bool

    @classmethod
    def of(cls, change: Tensor, vectors: PartialSpectrum | None, d: Tensor) -> Remainder:
        """What a diagonal `d` on these directions leaves of a change; None for no direction."""
        wide = matrix(change)
        flipped = wide.shape[0] > wide.shape[1]
        wide = wide.T if flipped else wide
        if vectors is None:
            none = wide.new_zeros(0, 0)
            return cls(wide, none.new_zeros(wide.shape[0], 0), none.new_zeros(0, wide.shape[1]), d, flipped)
        near, far = (vectors.right, vectors.left) if flipped else (vectors.left, vectors.right)
        return cls(wide, near, far.T, d, flipped)

    def with_terms(self, rows: Tensor, columns: Tensor) -> Remainder:
        """What is left when `rows [rows, k] columns [k, columns]` is taken away too."""
        near, far = (columns.T, rows.T) if self.flipped else (rows, columns)
        return replace(
            self,
            near=torch.cat([self.near.to(near), near], dim=1),
            far=torch.cat([self.far.to(far), far]),
            d=torch.cat([self.d, self.d.new_ones(near.shape[1])]),
        )

    def leading(self, count: int) -> Tensor:
        """The leading singular vectors on the smaller side: `[r, count]`, as many as there are if there are fewer."""
        near = self.near.to(torch.float64) * self.d
        gram = torch.zeros(len(self.change), len(self.change), dtype=torch.float64)
        for part in panels(self.change.shape[1]):
            panel = self.change[:, part].to(torch.float64) - near @ self.far[:, part].to(torch.float64)
            gram.addmm_(panel, panel.T)
        vectors: Tensor = torch.linalg.eigh(gram)[1]
        return vectors[:, max(0, len(gram) - count) :].flip(1)

    def low_rank(self, rank: int) -> tuple[Tensor, Tensor]:
        """The best approximation of a rank: rows `[rows, k]` and columns `[k, columns]` of the weight."""
        near = self.leading(rank)
        return self.oriented(near, self.times_near(near))

    def oriented(self, near: Tensor, far: Tensor) -> tuple[Tensor, Tensor]:
        """Factors `near [r, k]` and `far [k, m]` as rows `[rows, k]` and columns `[k, columns]` of the weight."""
        return (far.T, near.T) if self.flipped else (near, far)

    def times_near(self, near: Tensor) -> Tensor:
        """`near^T R`, `[k, m]`, for `near [r, k]`."""
        inside = (near.T @ self.near.to(near)) * self.d
        parts = [
            near.T @ self.change[:, part].to(near) - inside @ self.far[:, part].to(near)
            for part in panels(self.change.shape[1])
        ]
        return torch.cat(parts, dim=1)

    def times_far(self, far: Tensor) -> Tensor:
        """`R far^T`, `[r, k]`, for `far [k, m]`."""
        total = far.new_zeros(len(self.change), len(far))
        inside = far.new_zeros(len(self.d), len(far))
        for part in panels(self.change.shape[1]):
            total += self.change[:, part].to(far) @ far[:, part].T
            inside += self.far[:, part].to(far) @ far[:, part].T
        return total - self.near.to(far) @ (self.d[:, None] * inside)

    def times_columns(self, columns: Tensor) -> Tensor:
        """`R columns^T`, `[rows, k]`, R as the weight has it, for `columns [k, columns]`."""
        return self.times_near(columns.T).T if self.flipped else self.times_far(columns)

    def times_rows(self, rows: Tensor) -> Tensor:
        """`rows^T R`, `[k, columns]`, R as the weight has it, for `rows [rows, k]`."""
        return self.times_far(rows.T).T if self.flipped else self.times_near(rows)

    def along(self, rows: Tensor, columns: Tensor) -> Tensor:
        """What a change `rows columns` is along each direction, `u_i^T rows columns v_i`: `[n]`."""
        near, far = (columns.T, rows.T) if self.flipped else (rows, columns)
        inside = far.new_zeros(len(self.d), len(far))
        for part in panels(far.shape[1]):
            inside += self.far[:, part].to(far) @ far[:, part].T
        return ((self.near.to(near).T @ near) * inside).sum(1)
