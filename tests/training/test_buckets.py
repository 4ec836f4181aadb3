"""Sizes that pictures are learnt in: areas and steps are kept, little is cut off, batches have one shape."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from learnt import as_they_are, in_turn
from PIL import Image
from tiny_base import build

from spectra.errors import PictureWarning
from spectra.families.noise_schedule import DiffusionSchedule
from spectra.training.data.buckets import MOST_ASPECT, bucket_sizes, fit_pictures, nearest_size, warn_of_enlarged
from spectra.training.data.latents import Entry, PictureSource
from spectra.training.data.pictures import FittedPicture, Picture
from spectra.training.loss.denoising import DenoisingObjective
from spectra.training.loss.terms import ModelPrediction


@settings(max_examples=60, deadline=None)
@given(st.sampled_from([8, 16, 32, 64]), st.integers(8, 32))
def test_buckets_keep_the_area_and_the_step(step: int, count: int) -> None:
    side = step * count
    sizes = bucket_sizes(side, step)
    assert sizes[0] == (side, side)
    assert len(sizes) == len(set(sizes)) > 1
    assert {(height, width) for width, height in sizes} == set(sizes)
    for width, height in sizes:
        assert width % step == height % step == 0
        assert max(width, height) <= MOST_ASPECT * min(width, height)
        assert width * height == pytest.approx(side**2, rel=0.1001)


def test_buckets_of_common_bases() -> None:
    assert {(512, 512), (576, 448), (640, 448), (704, 384), (384, 704)} <= set(bucket_sizes(512, 64))
    assert {(1024, 1024), (1152, 896), (1280, 832), (1344, 768)} <= set(bucket_sizes(1024, 64))
    assert {(1152, 896), (768, 1344)} <= set(bucket_sizes(1024, 16)), "as coarse with a finer step"


@settings(max_examples=60, deadline=None)
@given(st.integers(100, 400), st.integers(100, 400))
def test_little_is_cut_off(width: int, height: int) -> None:
    size = nearest_size((width, height), bucket_sizes(512, 64))
    kept = min(size[0] / width, size[1] / height) / max(size[0] / width, size[1] / height)
    beyond = max(width / height, height / width) / MOST_ASPECT
    assert kept > 0.885 / max(1, beyond)


def test_a_square_picture_stays_a_square_and_squares_can_be_asked_for() -> None:
    pictures = [Picture.checked(Image.new("RGB", size)) for size in ((64, 64), (90, 60), (60, 90), (999, 10))]
    assert [each.size for each in fit_pictures(pictures, 64, 8)] == [(64, 64), (80, 56), (56, 80), (88, 48)]
    assert {each.size for each in fit_pictures(pictures, 64, 8, square=True)} == {(64, 64)}


def test_flipping_adds_mirrored_pictures() -> None:
    array = np.zeros((16, 16, 3), np.uint8)
    array[:, :8] = 255
    plain, mirrored = fit_pictures([Picture.checked(Image.fromarray(array))], 16, 8, flip=True)
    np.testing.assert_array_equal(np.asarray(plain.pixels()), array)
    np.testing.assert_array_equal(np.asarray(mirrored.pixels()), array[:, ::-1])


def test_small_pictures_are_named() -> None:
    small = [FittedPicture(Picture.checked(Image.new("RGB", (16, 12))), (32, 32))]
    with pytest.warns(PictureWarning, match=r"enlarged by up to 2\.7 times: a drawn picture \(16 x 12\)$"):
        warn_of_enlarged(small)
    warn_of_enlarged([FittedPicture(Picture.checked(Image.new("RGB", (33, 32))), (32, 32))])


@pytest.fixture(scope="module")
def pipe() -> Any:
    """A tiny pipeline, not changed by anything here."""
    return build()


def mixed(pipe: Any, **more: Any) -> PictureSource:
    """Three wide pictures, one high one and one square."""
    sizes = [(48, 32), (48, 32), (32, 48), (48, 32), (32, 32)]
    pictures = [Image.new("RGB", size, (50 * n, 90, 200 - 40 * n)) for n, size in enumerate(sizes)]
    return PictureSource(pipe, as_they_are(pictures), in_turn("abcde"), **more)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 5), st.integers(0, 1000))
def test_a_batch_has_one_shape_and_every_picture_comes_as_often(pipe: Any, size: int, seed: int) -> None:
    source = mixed(pipe)
    objective = DenoisingObjective("d", source, DiffusionSchedule.of(pipe.scheduler))
    generator, counted = torch.Generator().manual_seed(seed), Counter[int]()
    for _ in range(40):
        (draw,) = objective.draw(size, size, generator)
        assert {source.shape(entry) for entry in draw.index.tolist()} == {draw.noise.shape[1:]}
        counted.update(draw.index.tolist())
    # What a batch lacks is taken from rounds that follow: no picture gets ahead of another by more than a batch.
    assert max(counted[n] for n in range(5)) - min(counted[n] for n in range(5)) <= size + 1
    assert len(objective.remaining) <= 5 * (size + 1)


def test_pictures_of_one_shape_are_drawn_as_without_buckets(pipe: Any) -> None:
    source = PictureSource(pipe, as_they_are([Image.new("RGB", (32, 32))] * 3), in_turn("abc"))
    generator, other = torch.Generator().manual_seed(1), torch.Generator().manual_seed(1)
    remaining: list[int] = []
    drawn = [source.pick(remaining, generator, None if n % 2 else 0) for n in range(7)]
    rounds = [torch.randperm(3, generator=other).tolist()[::-1] for _ in range(3)]
    assert drawn == [number for each in rounds for number in each][:7]


def test_latents_of_every_shape_are_the_picture_s_own(pipe: Any) -> None:
    cached, fresh = mixed(pipe), mixed(pipe, cache_latents=False)
    assert [cached.shape(n) for n in range(5)] == [fresh.shape(n) for n in range(5)]
    assert cached.latent_shape == cached.shape(0)
    for entries in ([0, 3], [2], [4, 4]):
        index, noise = torch.tensor(entries), torch.randn(len(entries), *cached.shape(entries[0]))
        torch.testing.assert_close(cached.latents(index, noise), fresh.latents(index, noise), rtol=1e-4, atol=1e-4)


def test_a_mask_weighs_the_loss(pipe: Any) -> None:
    """Only what it shows counts, as much as the whole of a picture without one."""
    picture = Image.new("RGBA", (32, 32), (200, 30, 30, 255))
    picture.paste((0, 0, 0, 0), (16, 0, 32, 32))

    class Masked(FittedPicture):
        def weights(self) -> Image.Image | None:
            return picture.getchannel("A")

    plain = as_they_are([picture.convert("RGB")])
    both = PictureSource(pipe, [Masked(plain[0].picture, (32, 32)), *plain], [Entry(0, "a"), Entry(1, "a")])
    index = torch.tensor([0, 1])
    mask = both.masks(index)
    assert mask is not None
    half = mask.shape[-1] // 2
    assert mask[0, 0, :, :half].min() == 1 and mask[0, 0, :, half:].max() == 0 and mask[1].min() == 1
    assert PictureSource(pipe, plain, [Entry(0, "a")]).masks(torch.tensor([0])) is None

    objective = DenoisingObjective("d", both, DiffusionSchedule.of(pipe.scheduler))
    (draw,) = objective.draw(2, 2, torch.Generator().manual_seed(0))
    samples = objective.samples(type(draw)(index, draw.posterior, draw.noise, draw.timesteps), torch.device("cpu"))
    wrong = samples.target.clone()
    wrong[..., half:] += 3  # beyond the first one's mask
    loss = objective.loss(ModelPrediction(wrong), samples)
    assert float(loss) == pytest.approx(9 / 2 / 2, rel=1e-5), "the masked one counts nothing of it, the other half"
    wrong = samples.target.clone()
    wrong[..., :half] += 1
    assert float(objective.loss(ModelPrediction(wrong), samples)) == pytest.approx((1 + 0.5) / 2, rel=1e-5)
