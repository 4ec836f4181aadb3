"""The families that are known, and which of them a pipeline is of."""

from __future__ import annotations

from typing import Any

from spectra.errors import BaseError
from spectra.families.chroma import CHROMA
from spectra.families.family import Family
from spectra.families.flux import FLUX
from spectra.families.flux2 import FLUX2_DEV, FLUX2_KLEIN
from spectra.families.qwen_image import QWEN_IMAGE
from spectra.families.sd3 import SD3
from spectra.families.sdxl import SDXL
from spectra.families.stable_diffusion import STABLE_DIFFUSION
from spectra.families.z_image import Z_IMAGE

FAMILIES: tuple[Family, ...] = (
    STABLE_DIFFUSION,
    SDXL,
    SD3,
    FLUX,
    FLUX2_DEV,
    FLUX2_KLEIN,
    CHROMA,
    QWEN_IMAGE,
    Z_IMAGE,
)


def find_family(pipe: Any) -> Family | None:
    """The family whose pipeline this is, if one is known."""
    found = (find_family_of_class(each.__name__) for each in type(pipe).__mro__)
    return next((family for family in found if family is not None), None)


def find_family_of_class(pipeline: str) -> Family | None:
    """The family whose pipelines are of a class of that name, if one is known."""
    return next((family for family in FAMILIES if pipeline in family.pipelines), None)


def family_of(pipe: Any) -> Family:
    """The family of a pipeline that can be trained.

    Raises:
        BaseError: one of no family that is known, or that lacks a part.
    """
    family = find_family(pipe)
    if family is None:
        raise BaseError(
            f"{type(pipe).__name__} cannot be trained here; training supports text-to-image pipelines of "
            f"{', '.join(each.name for each in FAMILIES)}"
        )
    family.check(pipe)
    return family
