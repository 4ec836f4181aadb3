"""The embedded base in several processes: the shift, and the pictures, of one."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from PIL import Image
from several_processes import difference, float64_training, in_processes

from spectra.training.config import make_config
from spectra.training.run.loop import Loop
from spectra.training.run.train import train

STEPS, KILLED = 6, 3
"""Few: at the embedded base's rates a difference in the last bit grows about tenfold a step, and is a thousandth
of the loss after twelve.
"""


@pytest.mark.slow
def test_the_embedded_base_in_one_two_and_four_processes(tmp_path: Path) -> None:
    """In float64, all samples of a step equal; the second of two dies on the way, and one or four go on."""
    given = {"steps": STEPS, "save_every": KILLED, "validation_count": 1, "prior_count": 16, "batch": 4, "seed": 3}
    config = make_config(given)
    advance = Loop.advance

    def dying(self: Loop) -> float:
        if self.step == KILLED and self.processes.number == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return advance(self)

    def run(out: Path, **more: Any) -> None:
        train(config, out, device="cpu", **more)

    found = []
    with float64_training():
        run(tmp_path / "one" / "fox")
        for count in (2, 4):
            out = tmp_path / str(count) / "fox"
            ended = in_processes(count, lambda _, out=out: run(out), tmp_path / f"said {count}", 1800)
            assert [each.code for each in ended] == [0] * count, ended
            found.append(out)
        for count in (1, 4):
            out = tmp_path / f"killed, then {count}" / "fox"
            with mock.patch.object(Loop, "advance", dying):
                in_processes(2, lambda _, out=out: run(out), tmp_path / f"dying {count}", 1800)
            if count == 1:
                run(out, resume=True)
            else:
                in_processes(count, lambda _, out=out: run(out, resume=True), tmp_path / f"resumed {count}", 1800)
            found.append(out)
    sheet = np.asarray(Image.open(tmp_path / "one" / "fox" / "before-after.png").convert("RGB"), float)
    for out in found:
        error = difference(out, tmp_path / "one" / "fox")
        levels = np.abs(np.asarray(Image.open(out / "before-after.png").convert("RGB"), float) - sheet)
        print(f"{out.parent.name}: parameters {error:.1e}, pictures {levels.max():.0f} of 255 at most")
        assert error < 1e-5
        assert levels.max() <= 1
