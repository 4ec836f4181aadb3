"""What FLUX.2 has of its own: the steps' shift, and guidance away from a negative prompt or none."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import pytest
import tiny_families
import tiny_flux2
import torch
from torch import Tensor

from spectra.errors import BaseError, InputError
from spectra.families.flux2 import FLUX2_KLEIN
from spectra.families.known import family_of
from spectra.generation.drawing import Request, draw
from spectra.generation.settings import Sampling
from spectra.training.data.class_pictures import vocabulary

SAMPLING = Sampling(steps=2, guidance=2.0, width=32, height=32)


@contextmanager
def prompts_read(pipe: Any) -> Iterator[list[Tensor]]:
    """What the transformer reads within the block, call by call."""
    seen: list[Tensor] = []
    forward = pipe.transformer.forward

    def recording(*args: Any, **kwargs: Any) -> Any:
        seen.append(kwargs["encoder_hidden_states"])
        return forward(*args, **kwargs)

    with mock.patch.object(pipe.transformer, "forward", recording):
        yield seen


@pytest.mark.parametrize("tokens", [16, 1024, 4096, 16384])
def test_times_are_drawn_as_the_pipeline_moves_many_steps(tokens: int) -> None:
    from diffusers.pipelines.flux2.pipeline_flux2 import compute_empirical_mu

    pipe = tiny_families.build("flux2-dev")
    schedule: Any = family_of(pipe).schedule(pipe.scheduler, tokens, 0.0)
    assert math.log(schedule.odds) == pytest.approx(compute_empirical_mu(tokens, 200), abs=1e-4)


def test_klein_is_guided_away_from_a_negative_prompt() -> None:
    pipe = tiny_families.build("flux2-klein")
    requests = [Request("a sun", 0, "a moon"), Request("a sks sun", 1)]
    with prompts_read(pipe) as seen:
        drawn = draw(pipe, requests, SAMPLING)
    with torch.no_grad():
        for call, prompts in enumerate((["a sun", "a sks sun"], ["a moon", ""]) * SAMPLING.steps):
            assert torch.equal(seen[call], FLUX2_KLEIN.encode(pipe, prompts).embeds)
    assert len(seen) == 2 * SAMPLING.steps
    assert drawn[0] != draw(pipe, [Request("a sun", 0)], SAMPLING)[0]
    with pytest.raises(InputError, match="acts through guidance"):
        draw(pipe, requests, Sampling(guidance=1.0))


def test_a_distilled_klein_has_no_guidance() -> None:
    pipe = tiny_flux2.build_klein(distilled=True)
    pipe.set_progress_bar_config(disable=True)
    with prompts_read(pipe) as seen:
        draw(pipe, [Request("a sun", 0)], SAMPLING)
    assert len(seen) == SAMPLING.steps
    with pytest.raises(InputError, match="no effect on this FLUX.2 klein"):
        draw(pipe, [Request("a sun", 0, "a moon")], SAMPLING)


def test_dev_takes_no_negative_prompt() -> None:
    with pytest.raises(InputError, match="no effect on FLUX.2 dev"):
        draw(tiny_families.build("flux2-dev"), [Request("a sun", 0, "a moon")], SAMPLING)


def test_a_processor_has_no_words_for_random_prompts() -> None:
    with pytest.raises(BaseError, match="Qwen2Tokenizer has no words to draw from"):
        vocabulary(tiny_families.build("flux2-dev").tokenizer)
