"""Class means for the judge, and what generated pictures score against them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.numpy import save_file

from recipe.data import Data, draw_plain


def load_judge():
    """benchmarks/trainings/judge.py, whether or not the package is installed."""
    import importlib.util
    import sys

    if "recipe_judge" not in sys.modules:
        path = Path(__file__).parent.parent / "benchmarks" / "trainings" / "judge.py"
        spec = importlib.util.spec_from_file_location("recipe_judge", path)
        sys.modules["recipe_judge"] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return sys.modules["recipe_judge"]


def make_class_means(data: Data, path: Path) -> torch.Tensor:
    """Writes centre and class means of the known drawings; returns the means, (concepts, 1280), of unit length."""
    judge, known = load_judge(), data.known
    found = judge.features([Image.fromarray(picture) for picture in draw_plain(data, known)])
    of = np.array([data.concept_of(int(i)) for i in known])
    means = np.stack([found[of == c].mean(0) for c in range(len(data.concepts))])
    centre = means.mean(0)
    means = means - centre
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    tensors = {"means": means.astype(np.float16), "centre": centre.astype(np.float32)}
    save_file(tensors, path, metadata={"concepts": json.dumps(data.concepts)})
    return torch.from_numpy(means.astype(np.float32))


def score(pictures: list[Image.Image], concepts: list[str]) -> dict[str, float]:
    """Share of pictures whose nearest (five nearest) class means hold their concept."""
    judge = load_judge()
    cosines, names = judge.class_cosines(pictures), judge.concepts()
    columns = np.array([names.index(concept) for concept in concepts])
    own = cosines[np.arange(len(columns)), columns]
    above = (cosines > own[:, None]).sum(1)
    return {"top1": float((above < 1).mean()), "top5": float((above < 5).mean()), "cosine": float(own.mean())}
