"""Which settings make a training fit: the fewest that do, and the truth where none do."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from spectra.bases.published import PUBLISHED
from spectra.bases.shapes import published_shapes
from spectra.planning.fitting import CHANGES, Fit, fit
from spectra.planning.memory import checkpoints
from spectra.planning.plan import Planner
from spectra.planning.request import PlanRequest
from spectra.training.config import make_config


@pytest.fixture(scope="module")
def planner() -> Planner:
    """Of a base whose text encoder is out of the way: its bytes are the same whatever is set."""
    shapes = published_shapes("flux2-klein")
    return Planner(replace(shapes, parts={name: each for name, each in shapes.parts.items() if name != "text_encoder"}))


def fitted(planner: Planner, vram: float, **settings: Any) -> Fit:
    common = {"base": PUBLISHED["flux2-klein"].hub_id, "resolution": 512, "gradient_checkpointing": False}
    config = make_config(common | settings)
    return fit(planner, PlanRequest(config, "flux2-klein", vram=int(vram * 1e9)))


def test_what_fits_is_left_as_it_is(planner: Planner) -> None:
    found = fitted(planner, 100)
    assert (found.fits, found.changes) == (True, ())
    assert found.total < 100e9


def test_the_fewest_changes_are_made(planner: Planner) -> None:
    for vram in (13, 9, 6, 4.5):
        found = fitted(planner, vram, batch=4)
        assert found.fits, vram
        assert found.total <= vram * 1e9
        assert found.changes
        changes = [change for change in CHANGES if change.name in found.changes]
        for left_out in changes:
            request = PlanRequest(
                make_config(
                    {
                        "base": PUBLISHED["flux2-klein"].hub_id,
                        "resolution": 512,
                        "batch": 4,
                        "gradient_checkpointing": False,
                    }
                ),
                "flux2-klein",
            )
            for change in changes:
                if change is not left_out:
                    request = request.changed(**change.makes(request))
            total = planner.memory(request).total(checkpointing=checkpoints(request, planner.memory(request)))
            assert total > vram * 1e9, left_out.name


def test_less_memory_takes_more_changes_and_time_comes_before_quality(planner: Planner) -> None:
    counts = [len(fitted(planner, vram, batch=4).changes) for vram in (100, 13, 4.5)]
    assert counts == sorted(counts)
    assert fitted(planner, 13, batch=4).changes[0] == "gradient checkpointing"


def test_all_directions_become_few_where_they_are_too_much(planner: Planner) -> None:
    found = fitted(planner, 10, preset="svdiff")
    assert found.fits
    assert found.request.directions == 32


def test_what_never_fits_says_how_near_it_comes(planner: Planner) -> None:
    found = fitted(planner, 1)
    assert not found.fits
    assert found.total > 1e9
    assert "denoiser in 4 bits" in found.changes


def test_the_embedded_base_is_not_quantised(tmp_path: Path) -> None:
    request = PlanRequest(make_config({}), vram=10**8)
    found = fit(Planner(request.shapes()), request)
    assert not found.request.config.quantize


def test_an_encoder_that_is_larger_than_the_card_is_no_matter_of_settings() -> None:
    found = fitted(Planner(published_shapes("flux2-klein")), 8)
    assert (found.fits, found.largest) == (False, "drawing")  # as encoding, and the shift is there besides
    assert found.memory.drawing["text_encoder"] == max(found.memory.drawing.values()) > 8e9
    assert found.memory.phases(checkpointing=found.checkpointing)["training"] < 8e9
