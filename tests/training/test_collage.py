"""Collages: what is drawn how often, what its latents and prompts are, and which words belong to which half."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from learnt import as_they_are, in_turn
from PIL import Image
from tiny_base import SIZE, build

from spectra.errors import BaseError, InputError
from spectra.families.known import family_of
from spectra.families.noise_schedule import DiffusionSchedule
from spectra.training.data.collage import ALONE, CollageSource, CollageSubject, halved
from spectra.training.data.pictures import to_tensor
from spectra.training.data.prompts import parse_prompt
from spectra.training.loss.denoising import DenoisingObjective
from spectra.training.loss.terms import ModelPrediction, NoisySamples
from spectra.training.loss.unmix import UnmixTerm, other_half_mask

COLOURS = ("red", "green", "blue", "yellow", "black")
TEMPLATES = ("{left} {right}", "{right} {left}")


@pytest.fixture(scope="module")
def pipe() -> Any:
    """A tiny pipeline, not changed by anything here."""
    return build()


def shown(counts: tuple[int, ...] = (2, 3), bare: bool = False) -> list[CollageSubject]:
    """Subjects of plainly coloured pictures."""
    found, colours = [], iter(COLOURS)
    for letter, count in zip("vwxy", counts, strict=False):
        name = parse_prompt(f"a [{letter}] d")
        pictures = [Image.new("RGB", (SIZE, SIZE), next(colours)) for _ in range(count)]
        prompts = [f"a {letter}"] * count
        named = name.as_class if bare else name
        found.append(CollageSubject(as_they_are(pictures), in_turn(prompts), named))
    return found


def source(pipe: Any, probability: float = 0.6, unconditional: float = 0.0, **more: Any) -> CollageSource:
    """Of two subjects with two and three pictures."""
    return CollageSource(
        pipe,
        shown(**more),
        probability=probability,
        fit="shrink",
        templates=TEMPLATES,
        unconditional=unconditional,
    )


def drawn(source: CollageSource, count: int) -> list[list[int]]:
    """Entries as a training draws them."""
    generator, remaining = torch.Generator().manual_seed(0), list[int]()
    return [source.pick(remaining, generator) for _ in range(count)]


def test_collages_are_as_frequent_as_asked_and_of_two_subjects(pipe: Any) -> None:
    entries = drawn(source(pipe), 2000)
    collages = [entry for entry in entries if entry[1] != ALONE]
    assert 0.56 < len(collages) / len(entries) < 0.64
    assert all((left < 2) != (right < 2) for left, right, _ in collages)
    shares = [Counter(entry[0] < 2 for entry in group) for group in (collages, entries)]
    assert all(0.45 < share[True] / share.total() < 0.55 for share in shares), "subjects and sides are as likely"
    assert 0.45 < Counter(template for _, _, template in collages)[0] / len(collages) < 0.55
    # Each subject's pictures in rounds: each comes as often as another of its subject.
    pictures = Counter(number for left, right, _ in entries for number in (left, right) if number != ALONE)
    assert max(pictures[0], pictures[1]) - min(pictures[0], pictures[1]) <= 1
    assert max(pictures[n] for n in (2, 3, 4)) - min(pictures[n] for n in (2, 3, 4)) <= 1


@pytest.mark.parametrize(("probability", "collages"), [(0.0, 0), (1.0, 50)])
def test_collages_can_be_all_or_none(pipe: Any, probability: float, collages: int) -> None:
    assert sum(entry[1] != ALONE for entry in drawn(source(pipe, probability), 50)) == collages


def test_a_share_of_class_collages_stands_without_a_prompt(pipe: Any) -> None:
    prior = source(pipe, 1.0, 0.25, bare=True)
    index = torch.tensor(drawn(prior, 400))
    prompts = Counter(prior.prompts(index))
    assert 0.2 < prompts[""] / 400 < 0.3
    assert set(prompts) == {"", "a d a d"}
    assert prior.words(index) == []
    assert set(prompts) < set(prior.every_prompt())


def test_three_subjects_come_in_every_two(pipe: Any) -> None:
    entries = drawn(source(pipe, 1.0, counts=(1, 1, 1)), 300)
    assert {(left, right) for left, right, _ in entries} == {(a, b) for a in range(3) for b in range(3) if a != b}


def test_latents_are_those_of_each_part(pipe: Any) -> None:
    own = source(pipe)
    index = torch.tensor([[1, ALONE, 0], [4, 0, 1], [0, 2, 0]])
    noise = torch.randn(3, *own.latent_shape)
    latents = own.latents(index, noise)
    pictures = [picture.pixels() for each in shown() for picture in each.pictures]

    def encoded(picture: Image.Image, part: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            mean, spread = family_of(pipe).encode_pictures(pipe, to_tensor([picture]))
        return (mean + spread * part)[0]

    half = own.latent_shape[2] // 2
    torch.testing.assert_close(latents[0], encoded(pictures[1], noise[0]), rtol=1e-5, atol=1e-5)
    for row, (left, right) in ((1, (4, 0)), (2, (0, 2))):
        for part, picture in ((slice(0, half), left), (slice(half, None), right)):
            expected = encoded(halved(pictures[picture], "shrink"), noise[row][..., part])
            torch.testing.assert_close(latents[row][..., part], expected, rtol=1e-5, atol=1e-5)
    uncached = CollageSource(pipe, shown(), probability=0.6, fit="shrink", templates=TEMPLATES, cache_latents=False)
    torch.testing.assert_close(uncached.latents(index, noise), latents, rtol=1e-4, atol=1e-4)


def test_prompts_name_what_stands_where(pipe: Any) -> None:
    own = source(pipe)
    index = torch.tensor([[1, ALONE, 0], [4, 0, 1], [0, 2, 0]])
    prompts = own.prompts(index)
    assert prompts == ["a v", "a [v] d a [w] d", "a [v] d a [w] d"]
    words = own.words(index)
    assert [(word.sample, word.side) for word in words] == [(1, 0), (1, 1), (2, 0), (2, 1)]
    ids = pipe.tokenizer(prompts[1]).input_ids
    w, v = (pipe.tokenizer(f"[{letter}]").input_ids[1:-1] for letter in "wv")
    # In entry 1 the second subject stands on the left, and its word comes last in the prompt.
    assert [[ids[n] for n in word.tokens] for word in words] == [w, v, v, w]
    assert set(prompts) <= set(own.every_prompt())


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 40), st.sampled_from(["crop", "shrink"]))
def test_a_half_is_half_as_wide(size: int, fit: str) -> None:
    picture = Image.effect_noise((2 * size, 2 * size), 90).convert("RGB")
    half = halved(picture, fit)
    assert half.size == (size, 2 * size)
    middle = picture.crop((size // 2, 0, size // 2 + size, 2 * size))
    if fit == "crop" and size % 2 == 0:
        assert half.tobytes() == middle.tobytes()


def test_a_shrunk_half_has_all_of_the_picture_on_the_colour_of_its_edge() -> None:
    picture = Image.new("RGB", (32, 32), (10, 200, 30))
    picture.paste((250, 0, 0), (2, 12, 30, 20))
    half = halved(picture, "shrink")
    assert half.getpixel((8, 2)) == half.getpixel((0, 31)) == (10, 200, 30)
    red = [x for x in range(16) if half.getpixel((x, 16))[0] > 200]  # type: ignore[index]
    assert red == list(range(1, 15)), "and not its middle alone"


def test_what_cannot_be_cut_is_refused(pipe: Any) -> None:
    small = as_they_are([Image.new("RGB", (12, 12))])
    narrow = [CollageSubject(small, in_turn(["a"]), parse_prompt(prompt)) for prompt in ("a [v] d", "a [w] d")]
    with pytest.raises(BaseError, match="latents of 3 columns have no halves"):
        CollageSource(pipe, narrow, probability=0.6, fit="shrink", templates=TEMPLATES)
    templates = ("one wide drawing of " * 40 + "{left} on the left and {right} on the right",)
    with pytest.raises(InputError, match="longer than the text encoder reads"):
        CollageSource(pipe, shown(), probability=0.6, fit="shrink", templates=templates)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 20), st.integers(1, 20), st.sampled_from([1, 2, 3, 4]))
def test_masks_of_both_sides_cover_a_map_once(height: int, width: int, factor: int) -> None:
    left, right = (other_half_mask(height * factor, width * factor, height * width, side) for side in (0, 1))
    torch.testing.assert_close(left + right, torch.ones(height * width))
    rows = left.view(height, width)
    assert torch.equal(rows, rows[:1].expand_as(rows))
    assert float(left.sum()) == pytest.approx(height * width / 2, rel=1e-5), "the cut is in the middle"
    assert width == 1 or (rows[0, -1] == 1 and rows[0, 0] == 0)


def asked(pipe: Any, entries: list[list[int]]) -> NoisySamples:
    """The samples of some entries, with their words."""
    objective = DenoisingObjective(
        "d", source(pipe), DiffusionSchedule.of(pipe.scheduler), extra_terms=(UnmixTerm(1.0),)
    )
    (draw,) = objective.draw(len(entries), len(entries), torch.Generator().manual_seed(0))
    return objective.samples(
        type(draw)(torch.tensor(entries), draw.posterior, draw.noise, draw.timesteps), torch.device("cpu")
    )


def test_the_term_is_the_mean_square_on_the_other_half(pipe: Any) -> None:
    samples = asked(pipe, [[0, 2, 0], [1, ALONE, 0]])
    tokens = len(samples.words[0].tokens)
    layers = []
    for side in (4, 2):
        attention = torch.full((2, side, side, tokens), 0.5)
        attention[:, :, side // 2 :] = 0.25
        # The same map for both words: the left one's other half has .25, the right one's .5.
        layers.append([attention.flatten(1, 2), attention.flatten(1, 2)])
    value = UnmixTerm(1.0).loss(ModelPrediction(samples.noisy, layers), samples)
    assert float(value) == pytest.approx((0.25**2 + 0.5**2) / 2 / 2), "the second sample counts as zero"
    nothing = UnmixTerm(1.0).loss(ModelPrediction(samples.noisy, []), asked(pipe, [[1, ALONE, 0]]))
    assert float(nothing) == 0


def test_its_weight_follows_the_schedule() -> None:
    weights = {
        kind: [UnmixTerm(2.0, kind).weight_at(done) for done in (0, 0.5, 1)]
        for kind in ("constant", "falling", "rising")
    }
    assert weights == {"constant": [2, 2, 2], "falling": [2, 1, 0], "rising": [0, 1, 2]}


def test_only_terms_that_need_words_get_them(pipe: Any) -> None:
    objective = DenoisingObjective("d", source(pipe, 1.0), DiffusionSchedule.of(pipe.scheduler))
    (draw,) = objective.draw(4, 4, torch.Generator().manual_seed(0))
    assert list(objective.samples(draw, torch.device("cpu")).words) == []
