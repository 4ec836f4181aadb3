"""Learning rates and weight decay of a training's parameters."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from spectra.training.config import defaults
from spectra.training.run.optimizer import make_optimizer, rate_settings

KEYS = ("unet.to_q.delta", "unet.norm.delta", "unet.to_q.outer.a", "unet.to_q.outer.b", "unet.conv.outer.kernel",
        "text_encoder.tokens.word")  # fmt: skip


def test_other_vectors_of_a_term_learn_slower_and_decay_as_fast() -> None:
    parameters = {key: nn.Parameter(torch.ones(3)) for key in KEYS}
    rates = rate_settings(parameters, {"unet.to_q": 2, "unet.norm": 1, "unet.conv": 4, "text_encoder.tokens": 2})
    config = replace(
        defaults(""), lr=0.5, lr_1d=0.25, lr_outer=0.2, loraplus_lr_ratio=10.0, lr_word=0.125, weight_decay=0.5
    )
    optimizer = make_optimizer(parameters, rates, config)
    keys = {id(parameter): key for key, parameter in parameters.items()}
    found = {keys[id(each)]: group["lr"] for group in optimizer.param_groups for each in group["params"]}
    assert [found[key] for key in KEYS] == pytest.approx([0.5, 0.25, 0.2, 0.02, 0.02, 0.125])

    for parameter in parameters.values():
        parameter.grad = torch.zeros(3)
    optimizer.step()  # without a gradient, only the decay is left
    left = {key: parameter[0].item() for key, parameter in parameters.items()}
    assert left["unet.to_q.outer.a"] == pytest.approx(1 - 0.2 * 0.5)
    assert left["unet.to_q.outer.b"] == left["unet.conv.outer.kernel"] == left["unet.to_q.outer.a"]
    assert left["unet.to_q.delta"] == pytest.approx(1 - 0.5 * 0.5)


def test_parameters_of_other_methods_have_one_rate() -> None:
    parameters = {"unet.to_q.lora_A.default.weight": nn.Parameter(torch.ones(3))}
    (group,) = make_optimizer(parameters, dict.fromkeys(parameters, "lr"), replace(defaults(""), lr=0.5)).param_groups
    assert group["lr"] == 0.5
