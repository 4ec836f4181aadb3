"""What an edit does not ask to change: found where it is, followed to its edges, and put back."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_base import build

from spectra.editing.edit_mask import find_mask, measure_change, put_back
from spectra.editing.inversion import ddim_scheduler
from spectra.families.family import Condition
from spectra.families.known import family_of

SIDE, CELL = 64, 4
GREEN, BROWN, RED = (np.array(colour, float) for colour in ([90, 170, 90], [120, 80, 50], [200, 40, 40]))


def share(radius: float) -> Any:
    """How much of each pixel lies outside of a disc, `[64, 64]`."""
    y, x = np.mgrid[: SIDE * 4, : SIDE * 4] / 4 - (SIDE - 0.25) / 2
    outside = np.hypot(x + 1, y - 2) > radius
    return outside.reshape(SIDE, 4, SIDE, 4).mean((1, 3))


def picture(radius: float, disc: Any, ground: Any) -> Image.Image:
    outside = share(radius)[..., None]
    return Image.fromarray(np.round((1 - outside) * disc + outside * ground).astype(np.uint8))


def cells(values: Any) -> torch.Tensor:
    """Means over the cells of the latents: `[1, 1, 16, 16]`."""
    return torch.tensor(values.reshape(16, CELL, 16, CELL).mean((1, 3)), dtype=torch.float32)[None, None]


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_change_is_the_difference_in_velocity_of_whatever_kind(prediction: str) -> None:
    pipe = build(prediction=prediction)
    pipe.register_modules(scheduler=ddim_scheduler(pipe.scheduler))
    levels = pipe.scheduler.alphas_cumprod
    asked = torch.rand(2, 4, 4, 8, 8, generator=torch.Generator().manual_seed(0))  # early and late, for each prompt
    asked[:, 1] = asked[:, 0]  # an edit that says what the caption says

    def predict(_: Any, noisy: torch.Tensor, timesteps: torch.Tensor, condition: Condition) -> torch.Tensor:
        signal, spread = (x[timesteps].view(-1, 1, 1, 1) for x in (levels.sqrt(), (1 - levels).sqrt()))
        velocity = asked[(timesteps < 500).long(), condition.embeds[:, 0, 0].long()]
        if prediction == "sample":
            return signal * noisy - spread * velocity
        return velocity if prediction == "v_prediction" else signal * velocity + spread * noisy

    family = replace(family_of(pipe), predict=predict)
    caption, edits = (Condition(torch.tensor(rows).view(-1, 1, 1).float()) for rows in ([0], [1, 2, 3]))
    change = measure_change(pipe, family, torch.randn(1, 4, 8, 8), caption, edits, 4)  # 2 early, 2 late
    assert change.shape == (3, 1, 8, 8)
    assert change[0].max() < 0.01
    right = (asked[:, 2:] - asked[:, :1]).mean(0).norm(dim=1, keepdim=True)
    torch.testing.assert_close(change[1:], right / right.amax((1, 2, 3), keepdim=True), rtol=1e-3, atol=1e-4)


def test_a_mask_of_cells_is_drawn_to_the_edges_of_the_picture() -> None:
    outside = share(18)
    change = 0.15 + 0.8 * cells(outside)
    mask = find_mask(change, 0.45, picture(18, BROWN, GREEN))[0, 0].numpy()
    coarse = np.kron((change[0, 0] > 0.45).numpy(), np.ones((CELL, CELL)))
    assert np.abs(mask - outside).mean() < 0.02
    assert np.abs(mask - outside).mean() < np.abs(coarse - outside).mean() / 3
    assert not mask[outside == 0].round(2).any()


def test_how_much_is_kept() -> None:
    flat = Image.new("RGB", (SIDE, SIDE), "white")
    change = torch.linspace(0, 1, 16).expand(1, 1, 16, 16)
    shares = [float(find_mask(change, keep, flat).mean()) for keep in (0.2, 0.4, 0.6)]
    assert shares == pytest.approx([0.8, 0.6, 0.4], abs=0.05)
    assert not find_mask(torch.zeros(1, 1, 16, 16), 0.01, flat).any()


def test_what_is_put_back_has_no_seam() -> None:
    outside = share(18)
    unedited, asked = picture(18, BROWN, GREEN), picture(18, BROWN, RED)
    drawn = picture(19.5, np.array([30, 20, 90.0]), RED)  # in other colours, and beyond its edge
    mask = torch.tensor(outside, dtype=torch.float32)[None, None]
    new, old, edit, right = (
        np.asarray(each, int) for each in (put_back(drawn, unedited, mask, CELL), unedited, drawn, asked)
    )
    assert (new[outside == 0] == old[outside == 0]).all()
    assert (new[share(24) == 1] == edit[share(24) == 1]).all()
    assert np.abs(new - right).max() <= 12
    plainly = (1 - outside)[..., None] * old + outside[..., None] * edit
    assert np.abs(plainly - right).max() > 60
