from __future__ import annotations

import numpy as np
import torch
from PIL import Image

from spectra.training.data.pictures import fit, to_tensor


def test_fit_crops_the_longer_side_at_both_ends() -> None:
    array = np.zeros((10, 30, 3), np.uint8)
    array[:, 10:20] = 255
    assert np.asarray(fit(Image.fromarray(array), (10, 10))).min() == 255


def test_pixels_lie_in_minus_one_to_one() -> None:
    tensor = to_tensor([Image.new("RGB", (2, 3), (0, 255, 51))])
    assert tensor.shape == (1, 3, 3, 2)
    assert torch.equal(tensor[0, :, 0, 0], torch.tensor([-1.0, 1.0, 51 / 127.5 - 1]))
