"""How a shift's parameters move: the optimizers by name, and what is done to gradients."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from spectra.adapters.live_parameters import split_key
from spectra.errors import InputError
from spectra.training.config import TrainConfig

_CLASSES = {
    "adamw8bit": ("bitsandbytes", "bitsandbytes.optim", "AdamW8bit"),
    "prodigy": ("prodigyopt", "prodigyopt", "Prodigy"),
    "adamwschedulefree": ("schedulefree", "schedulefree", "AdamWScheduleFree"),
}
"""The optimizers that torch has not: package, module and class of each, by the name of the setting."""

ONE_CONCEPT = ("adamw8bit", "prodigy")
"""Optimizers that join what they know of several parameters' numbers, so that concepts would not stay apart."""


def check_optimizer(name: str) -> None:
    """Check that an optimizer can be used here.

    Raises:
        InputError: its package is not installed.
    """
    package = _CLASSES[name][0] if name in _CLASSES else ""
    if package and importlib.util.find_spec(package) is None:
        raise InputError(f"optimizer {name} needs the package {package}: pip install {package}")


def make_optimizer(parameters: Mapping[str, nn.Parameter], rates: Mapping[str, str], config: TrainConfig) -> Any:
    """The optimizer of `config`, with the learning rate that `rates` names for each parameter, by key.

    Prodigy has one rate for all, which it finds; a rate of 0 stays 0. With the others, `b` and kernel of an outer term
    learn `loraplus_lr_ratio` times slower than `a`, and decay as fast: where each decays by its own rate, `b` stays
    large, and the base's other answers drift.
    """
    groups: dict[tuple[str, bool], list[nn.Parameter]] = {}
    for key, parameter in parameters.items():
        slower = rates[key] == "lr_outer" and split_key(key)[1] != "outer.a"
        groups.setdefault((rates[key], slower), []).append(parameter)
    made = []
    for (setting, slower), group in groups.items():
        ratio = config.loraplus_lr_ratio if slower else 1.0
        rate = getattr(config, setting) / ratio
        if config.optimizer == "prodigy":
            rate, ratio = float(rate > 0), 1.0
        made.append({"params": group, "lr": rate, "initial_lr": rate, "weight_decay": config.weight_decay * ratio})
    if config.optimizer not in _CLASSES:
        return torch.optim.AdamW(made)
    _, module, name = _CLASSES[config.optimizer]
    return getattr(importlib.import_module(module), name)(made)


def rate_settings(parameters: Iterable[str], ndims: Mapping[str, int]) -> dict[str, str]:
    """The setting that is each parameter's learning rate, by key; a delta of a 1-D weight has one of its own.

    Args:
        parameters: keys, see `live_parameters`.
        ndims: numbers of dimensions of the weights, by name.
    """
    found = {}
    for key in parameters:
        name, part = split_key(key)
        if part == "delta":
            found[key] = "lr_1d" if ndims[name] == 1 else "lr"
        else:
            found[key] = "lr_word" if part == "word" else "lr_outer"
    return found


def clip_by_concept(parameters: Sequence[nn.Parameter], concepts: int, largest: float) -> None:
    """Scale the gradient of each concept, over all parameters, to a norm of at most `largest`."""
    gradients = [each.grad.view(concepts, -1) for each in parameters if each.grad is not None]
    norms = torch.stack([gradient.norm(dim=1) for gradient in gradients]).norm(dim=0)
    factor = (largest / (norms + 1e-6)).clamp_max(1).unsqueeze(1)
    for gradient in gradients:
        gradient.mul_(factor)
