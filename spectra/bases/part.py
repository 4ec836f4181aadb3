"""A model of a pipeline as a configuration tells it: its class, and what that is built with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Part:
    """One model of a pipeline.

    Attributes:
        library: `diffusers` or `transformers`.
        kind: the class in it.
        config: arguments of its configuration, as in config.json.
        weights: how many it has, where that is known without building it; else 0.
    """

    library: str
    kind: str
    config: Mapping[str, Any] = field(default_factory=dict)
    weights: int = field(default=0, compare=False)
