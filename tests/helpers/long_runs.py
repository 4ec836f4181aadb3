"""Many generations with replaced shifts, and a long training: memory stays flat, no handle or thread is left.

python tests/helpers/long_runs.py --generations 10000 --steps 2000         which is `make endurance`
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}

SAMPLES = 20
WARM_UP = 0.1
"""Share of a run that is not looked at: caches fill, and the allocator finds its size."""

GROWTH = 0.01


@dataclass(frozen=True)
class Use:
    """What a process holds: bytes of main memory, open files, threads."""

    memory: int
    handles: int
    threads: int

    @classmethod
    def now(cls) -> Use:
        gc.collect()
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        handles, threads = (len(list(Path("/proc/self", each).iterdir())) for each in ("fd", "task"))
        return cls(pages * os.sysconf("SC_PAGE_SIZE"), handles, threads)


def verdict(what: str, count: int, uses: Sequence[Use]) -> bool:
    """Print how far it grew; whether it stayed flat."""
    first, last = uses[0], uses[-1]
    growth = max(each.memory for each in uses) / first.memory - 1
    more = last.handles - first.handles, last.threads - first.threads
    print(
        f"{count} {what}: memory {first.memory / 1e6:.1f} MB, at most {growth:+.2%}; {more[0]:+d} handles, "
        f"{more[1]:+d} threads",
        flush=True,
    )
    return growth <= GROWTH and max(more) <= 0


def generations(folder: Path, count: int) -> bool:
    """Load a shift in place of the one before, draw a picture, and so on."""
    import tiny_base
    import torch

    import spectra
    from spectra.generation.drawing import draw, requests_for
    from spectra.generation.settings import Sampling

    pipe = tiny_base.build()
    pipe.set_progress_bar_config(disable=True)
    adapter = spectra.attach(pipe, "unet-ca")
    shifts = []
    for seed in range(3):
        torch.manual_seed(seed)
        for delta in adapter.deltas.values():
            delta.data.normal_(std=0.01)
        shifts.append(adapter.shift(base="tiny"))
    adapter.detach()
    uses, began = [], int(WARM_UP * count)
    for number in range(count):
        spectra.load(pipe, shifts[number % 3], name="one")
        spectra.activate(pipe, "one")
        draw(pipe, requests_for(["a"], (number,)), Sampling(1, 1.0, 16, 16))
        spectra.unload(pipe)
        if number >= began and (number - began) % max(1, (count - began) // SAMPLES) == 0:
            uses.append(Use.now())
    return verdict("generations", count, uses)


def training(folder: Path, steps: int) -> bool:
    """Train on a tiny base."""
    import tiny_base
    from PIL import Image

    from spectra.training.config import make_config
    from spectra.training.run.loop import Loop
    from spectra.training.run.train import train

    tiny_base.build().save_pretrained(folder / "base")
    (folder / "photos").mkdir()
    for number in range(3):
        Image.effect_noise((32, 32), 40 + number).convert("RGB").save(folder / "photos" / f"{number}.png")
    config = make_config(
        {
            "preset": "svdiff", "base": str(folder / "base"), "images": str(folder / "photos"), "prompt": "a v disc",
            "steps": steps, "batch": 1, "prior_weight": 0.0, "validation_count": 0, "save_every": 50,
        }
    )  # fmt: skip
    uses: list[Use] = []
    advance, began = Loop.advance, int(WARM_UP * steps)

    def watched(self: Loop) -> float:
        if self.step >= began and (self.step - began) % max(1, (steps - began) // SAMPLES) == 0:
            uses.append(Use.now())
        return advance(self)

    with mock.patch.object(Loop, "advance", watched):
        train(config, folder / "disc", device="cpu")
    return verdict("training steps", steps, uses)


def main() -> int:
    """Run both; 1 if either grew."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--generations", type=int, default=10_000)
    parser.add_argument("--steps", type=int, default=2_000)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["SPECTRA_CACHE"] = str(Path(folder) / "cache")
        runs = [(training, given.steps), (generations, given.generations)]
        flat = [run(Path(folder), count) for run, count in runs if count]
    return int(not all(flat))


if __name__ == "__main__":
    sys.exit(main())
