"""What a base's model predicts: noise (epsilon), v or the sample; as its file marks it, or as its user says.

Files that predict v are marked by empty tensors called `v_pred`, and `ztsnr` where training reached zero signal
(arXiv:2305.08891), or by `modelspec.prediction_type` in the metadata. Weights are the same shape in all cases, so that
nothing else tells.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from spectra.bases.index_files import read_object
from spectra.errors import BaseError
from spectra.io.safetensors_header import HeaderError, read_header
from spectra.io.tensor_files import change_header

PREDICTIONS = ("epsilon", "v_prediction", "sample")
"""What diffusers' schedulers call them."""

AUTO = "auto"
"""What the base's own files say."""

PREDICTION_TYPE: Mapping[str, Any] = {
    "default": AUTO,
    "help": "What the base's model predicts, where its files say nothing or are wrong; auto is what they say.",
    "choices": (AUTO, *PREDICTIONS),
}
"""What commands that load a base declare of the setting `prediction_type`."""

_MODELSPEC = {"v": "v_prediction", "epsilon": "epsilon"}


def marked_prediction(path: Path) -> tuple[str, bool]:
    """What a checkpoint is marked to predict, empty where it is not marked, and whether down to zero signal.

    Raises:
        BaseError: it cannot be read.
    """
    try:
        header = read_header(path)
    except (OSError, HeaderError) as error:
        raise BaseError(f"{path}: cannot be read as safetensors ({error})") from error
    said = _MODELSPEC.get(header.metadata.get("modelspec.prediction_type", ""), "")
    return ("v_prediction" if "v_pred" in header.tensors else said), "ztsnr" in header.tensors


def with_prediction(scheduler: Any, kind: str, zero_snr: bool = False) -> Any:
    """A scheduler like the given one for a model that predicts `kind`; DDIM where that one cannot reach zero signal.

    Args:
        zero_snr: the noise schedule ends at zero signal, and steps begin there (`timestep_spacing="trailing"`). A
            model that predicts noise cannot know anything there, so that it counts for none.

    Raises:
        BaseError: a scheduler of flow matching, which has no such choice.
    """
    from diffusers import DDIMScheduler

    if scheduler.config.get("prediction_type") not in PREDICTIONS:
        raise BaseError(
            f"prediction type {kind}: the base's scheduler {type(scheduler).__name__} has no choice of it; leave "
            "--prediction-type out"
        )
    zero_snr = zero_snr and kind != "epsilon"
    changes: dict[str, Any] = {"prediction_type": kind}
    if zero_snr:
        changes |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    elif kind == "epsilon" and scheduler.config.get("rescale_betas_zero_snr"):
        changes["rescale_betas_zero_snr"] = False
    made = type(scheduler)
    if zero_snr and "rescale_betas_zero_snr" not in inspect.signature(made.__init__).parameters:
        made = DDIMScheduler
        changes |= {"clip_sample": False, "set_alpha_to_one": False}
    return made.from_config(scheduler.config, **changes)


def mark_prediction(base: Path, kind: str) -> None:
    """Write what a base predicts into its files: a folder's scheduler configuration, or the marks of a single file.

    Raises:
        BaseError: a folder without such a configuration, or a file that is to predict the sample, for which no mark is
            known.
    """
    if base.is_dir():
        path = base / "scheduler" / "scheduler_config.json"
        config = read_object(path)
        changes = {"prediction_type": kind} | ({"rescale_betas_zero_snr": False} if kind == "epsilon" else {})
        path.write_text(json.dumps({**config, **changes}, indent=2) + "\n", encoding="utf-8")
        return
    if kind not in _MODELSPEC.values():
        raise BaseError(f"prediction type {kind}: no mark of a single file says so; expected epsilon or v_prediction")
    marks = {"v_pred": ("float32", (0,))}
    said = next(word for word, meant in _MODELSPEC.items() if meant == kind)
    change_header(
        base,
        {"modelspec.prediction_type": said},
        add=marks if kind == "v_prediction" else {},
        drop=() if kind == "v_prediction" else ("v_pred", "ztsnr"),
    )
