"""PEFT's configuration of an adapter: where files keep it, and what an adapter was started from.

PiSSA and OLoRA start from a part of the weight itself, which they take out of the frozen weight; what is trained is
then added to the rest. So the change of the weight is what the adapter is now, less what it was:

    PiSSA   Delta W = scale * up down - U_r diag(sigma_r) V_r^T                     (arXiv:2404.02948)
    OLoRA   Delta W = scale * (up down - Q_r R_r),    W = Q R                       (arXiv:2406.01775)
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from spectra.convert.lora.keys import METADATA_KEY
from spectra.errors import FormatError
from spectra.io.foreign_values import parse_json

_FROM_THE_WEIGHT = ("pissa", "olora")
"""Starts that the base's weight tells again."""

_FROM_ELSEWHERE = {
    "pissa_niter": "a random decomposition of the weights",
    "corda": "data that the file does not have",
    "loftq": "a quantised base",
    "lora_ga": "a gradient that the file does not have",
}
"""Starts that were taken out of the base too, and that nothing here tells."""


def peft_config(path: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    """PEFT's configuration: in the metadata, where diffusers put it, or in a file beside; {} if there is none.

    Raises:
        FormatError: it cannot be read, or is that of a DoRA, or of an adapter that was started from something unknown.
    """
    beside = path.with_name("adapter_config.json")
    try:
        text = metadata.get(METADATA_KEY, "")
        if not text and path.name.startswith("adapter_model") and beside.is_file():
            text = beside.read_text(encoding="utf-8")
        config = parse_json(text) if text else {}
        if not isinstance(config, dict):
            raise ValueError("expected a JSON object")
    except (OSError, ValueError) as error:
        raise FormatError(f"{path}: PEFT's configuration cannot be read ({error})") from error
    if any(value for key, value in config.items() if key.split(".")[-1] == "use_dora"):
        raise FormatError(f"{path}: a DoRA; merge it into its base, and take the merged model instead")
    for key, value in config.items():
        start = next((each for each in _FROM_ELSEWHERE if str(value).lower().startswith(each)), "")
        if key.split(".")[-1] == "init_lora_weights" and start:
            raise FormatError(
                f"{path}: its start (init_lora_weights={value!r}) was taken out of the base, from "
                f"{_FROM_ELSEWHERE[start]}: merge it into its base with PEFT, and take the merged model instead"
            )
    return config


def own_config(config: Mapping[str, Any], module: str) -> tuple[str, Mapping[str, Any]]:
    """A module's path in its component, and the configuration of that component.

    diffusers joins the configurations of several components, each behind its name.
    """
    if "peft_type" in config:
        return module, config
    prefix = module.partition(".")[0] + "."
    own = {name.removeprefix(prefix): value for name, value in config.items() if name.startswith(prefix)}
    return module.removeprefix(prefix), own


def started_from(config: Mapping[str, Any]) -> str:
    """The start of an adapter that was taken out of the weights: "pissa", "olora", or empty."""
    start = str(config.get("init_lora_weights", "")).lower()
    return start if start in _FROM_THE_WEIGHT else ""


def start_of(start: str, weight: Tensor, rank: int, scale: float) -> tuple[Tensor, Tensor]:
    """What an adapter was at first, with its scale: up `[rows, rank]` and down `[rank, columns]`, float64.

    PEFT finds it in float32, from the weight in its own precision.
    """
    wide = weight.to(torch.float32)
    if start == "pissa":
        left, sigma, right = torch.linalg.svd(wide, full_matrices=False)
        up, down = left[:, :rank] * sigma[:rank], right[:rank]
    else:
        q, r = torch.linalg.qr(wide)
        up, down = scale * q[:, :rank], r[:rank]
    return up.to(torch.float64), down.to(torch.float64)
