"""`spectra plan`: what a training will take, before anything is loaded."""

from __future__ import annotations

import contextlib
import gc
import importlib.util
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from spectra.bases.published import find_published
from spectra.cli import output
from spectra.cli.options import command, json_option
from spectra.errors import InputError
from spectra.settings import declared_settings, setting
from spectra.training.config import TrainConfig, make_config

if TYPE_CHECKING:
    from spectra.planning.fitting import Fit
    from spectra.planning.plan import Plan
    from spectra.planning.request import PlanRequest

_PLANNED = (
    *("base", "targets", "preset", "text_encoder", "directions", "outer", "word", "lr_1d", "resolution"),
    *("batch", "accumulation", "prior_weight", "gradient_checkpointing", "low_memory", "quantize", "precision"),
    *("file_dtype", "cache_latents", "cache_prompts"),
)
"""The settings of a training that a plan depends on."""

_NOT_NEEDED = ("bitsandbytes", "peft", "torchao", "transformers")
"""Packages that diffusers imports where they are installed, not for a model's shapes: it takes longer than counting."""


@dataclass(frozen=True)
class _Options:
    family: str = setting(
        "",
        "Name of a published base, in place of --base: sd15, sdxl, sd3, flux, flux2-dev, flux2-klein, chroma, "
        "qwen-image or z-image.",
        metavar="NAME",
        panel="Pictures",
    )
    vram: str = setting(
        "",
        "Memory of the card, such as 24GB: says whether a step fits, and which settings make it fit.",
        metavar="SIZE",
    )
    json: bool = json_option()


@command(
    _Options,
    "spectra plan --family flux --vram 24GB",
    "spectra plan --base ./sdxl --preset svdiff --resolution 768 --vram 16GB --json",
    library={name: each for name, each in declared_settings(TrainConfig).items() if name in _PLANNED},
)
def plan(options: _Options, given: dict[str, Any]) -> None:
    """Says what a training will take: floats, bytes, spectra, memory by part; with --vram, how it fits a card.

    Nothing is loaded but configurations. What is estimated, and not counted, is marked so.
    """
    from spectra.cli import plan_view
    from spectra.planning.request import PlanRequest, read_memory

    if options.family:
        if given.get("base"):
            raise InputError(f"give either --base ({given['base']}) or --family ({options.family}), not both")
        given["base"] = find_published(options.family).hub_id
    config = make_config(given, source="command line")
    vram = read_memory(options.vram) if options.vram else 0
    request = PlanRequest(config, options.family, vram)
    gc.disable()  # little that is made here is thrown away
    try:
        found, fitting = _planned(request)
    finally:
        gc.enable()
    output.result(plan_view.as_dict(found, fitting), json=options.json, human=lambda: plan_view.show(found, fitting))


def _planned(request: PlanRequest) -> tuple[Plan, Fit | None]:
    """The plan, and what makes it fit the card, if one is named."""
    shapes = request.shapes()
    with _quick_imports():
        import diffusers

        for part in shapes.parts.values():
            getattr(diffusers, part.kind, None)  # what is missing is told when it is built
    from spectra.planning.fitting import fit
    from spectra.planning.plan import Planner

    planner = Planner(shapes)
    return planner.plan(request), fit(planner, request) if request.vram else None


@contextlib.contextmanager
def _quick_imports() -> Iterator[None]:
    """Within the block, what diffusers imports for nothing is not found."""
    find = importlib.util.find_spec
    # Once diffusers has looked for them, they are to be found.
    hidden = [name for name in _NOT_NEEDED if name not in sys.modules and "diffusers" not in sys.modules]

    def found(name: str, package: str | None = None) -> Any:
        return None if name.partition(".")[0] in hidden else find(name, package)

    importlib.util.find_spec = found
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]  # None: to import one is an error
    try:
        yield
    finally:
        importlib.util.find_spec = find
        for name in hidden:
            del sys.modules[name]
