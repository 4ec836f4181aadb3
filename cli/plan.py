"""`spectra plan`: what a training will take, before anything is loaded."""

from __future__ import annotations

import gc
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from spectra.bases.published import find_published
from spectra.cli import output
from spectra.cli.options import command, json_option
from spectra.cli.quick_imports import quick_imports, without
from spectra.errors import InputError
from spectra.settings import declared_settings, setting
from spectra.training.config import TrainConfig, make_config

if TYPE_CHECKING:
    from spectra.planning.fitting import Fit
    from spectra.planning.plan import Plan

_PLANNED = (
    *("base", "targets", "preset", "text_encoder", "directions", "outer", "word", "lr_1d", "resolution"),
    *("batch", "accumulation", "prior_weight", "gradient_checkpointing", "low_memory", "quantize", "precision"),
    *("file_dtype", "cache_latents", "cache_prompts", "validation_count"),
)
"""The settings of a training that a plan depends on."""


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
        "Memory of the card, such as 24GB: says whether a training fits, and which settings make it fit.",
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
    if options.family:
        if given.get("base"):
            raise InputError(f"give either --base ({given['base']}) or --family ({options.family}), not both")
        given["base"] = find_published(options.family).hub_id
    config = make_config(given, source="command line")
    gc.disable()  # little that is made here is thrown away
    try:
        found, fitting = _planned(config, options)
    finally:
        gc.enable()
    from spectra.cli import plan_view

    output.result(plan_view.as_dict(found, fitting), json=options.json, human=lambda: plan_view.show(found, fitting))


def _planned(config: TrainConfig, options: _Options) -> tuple[Plan, Fit | None]:
    """The plan, and what makes it fit the card, if one is named."""
    from spectra.planning.request import PlanRequest, read_memory

    request = PlanRequest(config, options.family, read_memory(options.vram) if options.vram else 0)
    shapes = request.shapes()
    with quick_imports():
        with without("transformers"):  # diffusers' models do without; what is asked of it is imported when it is built
            import diffusers

            for part in shapes.parts.values():
                getattr(diffusers, part.kind, None)  # what is missing is told when it is built
        from spectra.planning.fitting import fit
        from spectra.planning.plan import Planner

        planner = Planner(shapes)
        return planner.plan(request), fit(planner, request) if request.vram else None
