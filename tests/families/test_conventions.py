"""Each family's conventions against its own pipeline: packing, sign, scale and time.

The pipeline draws, and in its model's place stands one that knows the picture and answers the objective's target, put
into the model's own form. Whatever a family has wrong leads away from the picture.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
import tiny_families
import torch
from torch import Tensor

from spectra.families.family import Family
from spectra.families.known import family_of

HEIGHT, WIDTH = 32, 48
PROMPTS = ["a sun", "a sks sun by z"]

Arguments = Mapping[str, Any]
Change = Callable[[Family], Family]


@contextmanager
def standing_in(model: Any, answer: Callable[[Arguments], Any]) -> Iterator[Callable[..., Any]]:
    """Within the block `answer` has the model's place, and is told its arguments by name; yields the real one."""
    forward = model.forward
    signature = inspect.signature(forward)

    def stand_in(*args: Any, **kwargs: Any) -> Any:
        return (answer(signature.bind(*args, **kwargs).arguments),)

    with mock.patch.object(model, "forward", stand_in):
        yield forward


def flat(value: Any) -> Tensor:
    """All numbers of a tensor or of a list of them."""
    return value.flatten() if isinstance(value, Tensor) else torch.cat([flat(each) for each in value])


def filled(like: Any, numbers: Tensor) -> Any:
    """`numbers` in the form of `like`."""
    if isinstance(like, Tensor):
        return numbers.view_as(like)
    parts = numbers.split([each.numel() for each in like])
    return [filled(each, part) for each, part in zip(like, parts, strict=True)]


class Knowing:
    """Stands in for a family's model, and knows the latents `clean` that are to be drawn.

    Where each place of the latents is in what the model is given and in what it answers, and with which sign, is found
    by letting the family call it with numbered places.
    """

    def __init__(self, family: Family, pipe: Any, clean: Tensor) -> None:
        self.family, self.pipe, self.clean = family, pipe, clean
        self.condition = family.encode(pipe, list(PROMPTS))
        self.calls: list[Arguments] = []
        self.noisy: list[Tensor] = []
        numbers = torch.arange(1, clean.numel() + 1, dtype=clean.dtype)
        times = torch.full((len(clean),), 500)
        given: list[Tensor] = []
        model = getattr(pipe, family.model)

        def numbered(arguments: Arguments) -> Any:
            given.append(flat(next(iter(arguments.values()))))
            with torch.no_grad():
                self.like = forward(**arguments)[0]
            return filled(self.like, torch.arange(1, flat(self.like).numel() + 1, dtype=clean.dtype))

        with standing_in(model, numbered) as forward:
            answered = family.predict(pipe, numbers.view_as(clean), times, self.condition).flatten()
        self.given, self.answered = given[0], answered
        assert sorted(self.given.abs().tolist()) == numbers.tolist()
        assert len(set(answered.abs().tolist())) == len(numbers)

    def __call__(self, arguments: Arguments) -> Any:
        time = self.pipe.scheduler.timesteps[len(self.calls)]
        noisy = torch.empty_like(self.clean)
        noisy.view(-1)[self.given.abs().long() - 1] = flat(next(iter(arguments.values()))) * self.given.sign()
        self.calls.append(arguments)
        self.noisy.append(noisy)
        times = time.expand(len(noisy))
        schedule = self.family.schedule(self.pipe.scheduler, self.family.tokens(noisy.shape[1:]), 0.0)
        signal, spread = schedule.levels(times, noisy)
        _, target = schedule.noisy_and_target(self.clean, (noisy - signal * self.clean) / spread, times)
        numbers = torch.zeros(flat(self.like).numel())
        numbers[self.answered.abs().long() - 1] = target.flatten() * self.answered.sign()
        return filled(self.like, numbers)


def drawn(name: str, steps: int, changed: Change = lambda family: family) -> tuple[Knowing, Tensor]:
    """The stand-in after its pipeline has drawn with it, and the latents that came to the VAE."""
    pipe = tiny_families.build(name)
    family = changed(family_of(pipe))
    with torch.no_grad():
        shape = family.encode_pictures(pipe, torch.zeros(len(PROMPTS), 3, HEIGHT, WIDTH))[0].shape
    knowing = Knowing(family, pipe, torch.randn(shape, generator=torch.Generator().manual_seed(1)))
    with standing_in(getattr(pipe, family.model), knowing), seen_by_vae(pipe) as seen:
        pipe(
            prompt=list(PROMPTS),  # which some change
            height=HEIGHT,
            width=WIDTH,
            num_inference_steps=steps,
            generator=[torch.Generator().manual_seed(seed) for seed in range(len(PROMPTS))],
            **family.guided(pipe, family.guidance, [""] * len(PROMPTS)),
        )
    return knowing, seen[0]


@contextmanager
def seen_by_vae(pipe: Any) -> Iterator[list[Tensor]]:
    """What the VAE decodes within the block."""
    seen: list[Tensor] = []
    decode = pipe.vae.decode

    def recording(latents: Tensor, *args: Any, **kwargs: Any) -> Any:
        seen.append(latents)
        return decode(latents, *args, **kwargs)

    with mock.patch.object(pipe.vae, "decode", recording):
        yield seen


@pytest.mark.parametrize("steps", [1, 4])
@pytest.mark.parametrize("name", tiny_families.TINY)
def test_the_target_in_the_model_s_place_leads_to_the_picture(name: str, steps: int) -> None:
    check_way(*drawn(name, steps))


def check_way(knowing: Knowing, decoded: Tensor) -> None:
    """The way led to the picture, and pictures become latents as latents become pictures."""
    family, pipe = knowing.family, knowing.pipe
    with seen_by_vae(pipe) as seen:
        family.decode_latents(pipe, knowing.clean)
    torch.testing.assert_close(decoded, seen[0], rtol=1e-4, atol=1e-4)

    spread = torch.rand_like(decoded)
    made = SimpleNamespace(latent_dist=SimpleNamespace(mean=seen[0], std=spread), latent=seen[0])
    with mock.patch.object(pipe.vae, "encode", return_value=made):
        mean, std = family.encode_pictures(pipe, torch.zeros(len(PROMPTS), 3, HEIGHT, WIDTH))
    torch.testing.assert_close(mean, knowing.clean, rtol=1e-5, atol=1e-5)
    made.latent_dist.mean = seen[0] + spread
    with mock.patch.object(pipe.vae, "encode", return_value=made):
        torch.testing.assert_close(family.encode_pictures(pipe, seen[0])[0] - mean, std, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", tiny_families.TINY)
def test_the_model_is_called_as_its_pipeline_calls_it(name: str) -> None:
    check_calls(drawn(name, 3)[0])


def check_calls(knowing: Knowing) -> None:
    """The family calls the model with what its pipeline has called it with."""
    family, pipe, calls = knowing.family, knowing.pipe, list(knowing.calls)
    for noisy, time, theirs in zip(list(knowing.noisy), pipe.scheduler.timesteps, calls, strict=True):
        knowing.calls.clear()
        with standing_in(getattr(pipe, family.model), knowing):
            family.predict(pipe, noisy, time.expand(len(noisy)), knowing.condition)
        (ours,) = knowing.calls
        for argument in {*theirs, *ours} - {"return_dict"}:
            compare(argument, ours.get(argument), theirs.get(argument))


@pytest.mark.parametrize("name", tiny_families.TINY)
def test_blocks_that_are_computed_again_answer_the_same(name: str) -> None:
    pipe = tiny_families.build(name)
    family = family_of(pipe)
    with torch.no_grad():
        condition = family.encode(pipe, list(PROMPTS))
        noisy = family.encode_pictures(pipe, torch.rand(len(PROMPTS), 3, HEIGHT, WIDTH))[0]

    def answer_and_gradient() -> tuple[Tensor, Tensor]:
        given = noisy.clone().requires_grad_()
        answer = family.predict(pipe, given, torch.tensor([300, 800]), condition)
        return answer.detach(), torch.autograd.grad(answer.square().sum(), given)[0]

    whole = answer_and_gradient()
    getattr(pipe, family.model).enable_gradient_checkpointing()
    torch.testing.assert_close(answer_and_gradient(), whole)


def compare(name: str, ours: Any, theirs: Any) -> None:
    """Equal tensors; what is empty or None counts as left out, and one time for all as each sample's."""
    if isinstance(theirs, Tensor):
        assert isinstance(ours, Tensor), name
        assert ours.dtype == theirs.dtype, name
        shape = ours.shape if theirs.ndim == 0 else theirs.shape
        torch.testing.assert_close(ours, theirs.expand(shape), msg=lambda said: f"{name}: {said}")
    elif isinstance(theirs, Mapping) and theirs:
        assert {*theirs} == {*ours}, name
        for key, value in theirs.items():
            compare(f"{name}.{key}", ours[key], value)
    elif isinstance(theirs, list | tuple) and theirs:
        assert len(ours) == len(theirs), name
        for mine, value in zip(ours, theirs, strict=True):
            compare(name, mine, value)
    else:
        assert (ours or None) == (theirs or None), name


def other_answer(change: Callable[[Tensor], Tensor]) -> Change:
    return lambda family: replace(family, predict=lambda *given: change(family.predict(*given)))


def other_time(change: Callable[[Tensor], Tensor]) -> Change:
    def predict(family: Family, pipe: Any, noisy: Tensor, times: Tensor, condition: Any) -> Tensor:
        return family.predict(pipe, noisy, change(times), condition)

    return lambda family: replace(family, predict=partial(predict, family))


def other_schedule(family: Family) -> Family:
    return replace(family, schedule=lambda *given: replace(family.schedule(*given), steps=999))


def other_scale(family: Family) -> Family:
    offset = replace(family.latents, scale=lambda vae: (0.1, family.latents.scale(vae)[1]))
    return replace(family, latents=offset)


WRONG: dict[str, Change] = {
    "sign": other_answer(lambda answer: -answer),
    "rows for columns": other_answer(lambda answer: answer.transpose(2, 3).reshape(answer.shape)),
    "time": other_time(lambda times: 1000 - times),
    "unit of time": other_time(lambda times: times / 1000),
    "length of the schedule": other_schedule,
    "scale of latents": other_scale,
}


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("name", ["sd3", "flux-dev", "flux2-klein"])
def test_these_checks_notice_what_is_wrong(name: str, wrong: str) -> None:
    def check() -> None:
        knowing, decoded = drawn(name, 1, WRONG[wrong])
        check_way(knowing, decoded)
        check_calls(knowing)

    with pytest.raises(AssertionError):
        check()
