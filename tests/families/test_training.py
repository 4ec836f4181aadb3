"""Each family trains with the settings by default, and what it has learnt is used, put away and kept apart."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import drawn_afresh
import numpy as np
import pytest
import small_models
import tiny_families
from drawn_afresh import pictures, use
from PIL import Image
from trainings import quick_outputs, read_training  # noqa: F401 - a fixture

import spectra
from spectra.bases.pipeline import load_pipeline
from spectra.errors import MismatchError
from spectra.training.config import make_config
from spectra.training.run.train import train

STEPS = 20


@pytest.fixture(scope="module")
def draw_afresh() -> Iterator[Callable[[str, Path, Path], None]]:
    """Draws a base with a shift into a file, in a process that has done nothing else."""
    program = [sys.executable, drawn_afresh.__file__]
    with subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        lines = server.stdin, server.stdout

        def call(base: str, shift: Path, out: Path) -> None:
            print(base, shift, out, sep="\t", file=lines[0], flush=True)
            assert lines[1].readline() == "0\n"

        yield call
        server.stdin.close()


@pytest.mark.parametrize("name", [name for name, tiny in tiny_families.TINY.items() if tiny.saved])
def test_a_shift_is_learnt_read_again_and_put_away(
    name: str, tmp_path: Path, draw_afresh: Callable[[str, Path, Path], None]
) -> None:
    base = str(tmp_path / "base")
    tiny_families.build(name).save_pretrained(base)
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 32, 3), np.uint8)).save(tmp_path / "sun.png")
    config = make_config(
        {
            "base": base,
            "images": str(tmp_path / "sun.png"),
            "prompt": "a sks sun",
            "class_prompt": "a sun",
            "resolution": 32,
            "steps": STEPS,
            "lr_outer": 0.1,
            "prior_count": 2,
            "prior_steps": 2,
            "validation_count": 1,
            "validation_steps": 2,
        }
    )
    summary = train(config, tmp_path / "out", device="cpu")
    _, losses = read_training(tmp_path / "out")
    assert len(losses) == STEPS
    assert {"denoising", "prior"} < set(losses[-1])

    pipe = load_pipeline(base)
    before = pictures(pipe)
    use(pipe, Path(summary.shift))
    after = pictures(pipe)
    assert not np.array_equal(before, after)
    draw_afresh(base, Path(summary.shift), tmp_path / "afresh.npy")
    assert np.array_equal(np.load(tmp_path / "afresh.npy"), after)
    spectra.unload(pipe)
    assert np.array_equal(pictures(pipe), before)

    other = tiny_families.build("sd" if hasattr(pipe, "transformer") else "flux-dev")
    foreign = small_models.random_shift(other, "denoiser", 0)
    with pytest.raises(MismatchError, match="does not fit this model") as caught:
        spectra.load(pipe, foreign, name="foreign")
    assert "\n" not in str(caught.value)
    assert np.array_equal(pictures(pipe), before)
