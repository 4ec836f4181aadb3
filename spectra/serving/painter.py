"""Pictures for many requests at once: what is drawn alike goes into one batch, each sample with its own shifts."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from PIL import Image

from spectra.adapters.loaded_shifts import per_sample
from spectra.adapters.spectra_from import find_originals
from spectra.bases.embedded import NAME
from spectra.bases.pipeline import find_base, load_pipeline
from spectra.errors import SpectraError
from spectra.generation.drawing import Request, best_device, draw
from spectra.generation.settings import Sampling, make_generate_settings
from spectra.serving.image_requests import ImageRequest
from spectra.serving.settings import ServeSettings
from spectra.serving.shelf import Shelf

Painted = list[bytes] | SpectraError
"""PNG files of a request's pictures, or why there are none."""


class _Sample(NamedTuple):
    owner: int
    request: Request
    shifts: Mapping[str, float]


class Painter:
    """A base in memory, and the shifts of a folder.

    Attributes:
        name: of the base.
        sampling: how its pictures are drawn where a request does not say.
        shelf: the shifts.

    Raises:
        SpectraError: the base or the folder is not there.
    """

    def __init__(self, settings: ServeSettings, device: str = "") -> None:
        import torch

        location = find_base(settings.base, settings.components_from, settings.prediction_type)
        self.name, self.batch = location.name, settings.batch
        dtype = getattr(torch, settings.dtype)
        self.pipe: Any = load_pipeline(location, dtype, device or best_device(), settings.quantize)
        find_originals(self.pipe, location, settings.spectra_from)
        drawn = make_generate_settings(base="" if self.name == NAME else settings.base, prompts=("",)).sampling
        self.sampling: Sampling = drawn
        self.shelf = Shelf(self.pipe, settings.shifts, settings.max_loaded)

    def paint(self, requests: Sequence[ImageRequest]) -> list[Painted]:
        """The pictures of each request; what is wrong with one keeps no other from its own."""
        failed = self.shelf.take([name for request in requests for name in request.shifts])
        painted: list[Painted] = [[] for _ in requests]
        alike: dict[tuple[Sampling, bool], list[_Sample]] = {}
        for owner, request in enumerate(requests):
            lacking = next((failed[name] for name in request.shifts if name in failed), None)
            if lacking is not None:
                painted[owner] = lacking
                continue
            alike.setdefault((request.sampling, bool(request.negative)), []).extend(
                _Sample(owner, Request(request.prompt, request.seed + number, request.negative), request.shifts)
                for number in range(request.count)
            )
        for (sampling, _), samples in alike.items():
            for first in range(0, len(samples), self.batch):
                chunk = samples[first : first + self.batch]
                for sample, drawn in zip(chunk, self._draw(chunk, sampling), strict=True):
                    whole = painted[sample.owner]
                    if isinstance(drawn, SpectraError):
                        painted[sample.owner] = drawn
                    elif not isinstance(whole, SpectraError):
                        whole.append(_png(drawn))
        return painted

    def _draw(self, chunk: Sequence[_Sample], sampling: Sampling) -> list[Image.Image | SpectraError]:
        """A batch; where it cannot be one, each sample alone."""
        try:
            with per_sample(self.pipe, [sample.shifts for sample in chunk]):
                return list(draw(self.pipe, [sample.request for sample in chunk], sampling))
        except SpectraError as error:
            if len(chunk) == 1:
                return [error]
            return [drawn for sample in chunk for drawn in self._draw([sample], sampling)]


def _png(picture: Image.Image) -> bytes:
    written = io.BytesIO()
    picture.save(written, "PNG")
    return written.getvalue()
