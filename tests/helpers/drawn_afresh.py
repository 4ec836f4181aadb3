"""Pictures of a base with a shift, drawn by a process of their own.

Run as a program it imports what drawing takes, once, and then, for each line with a base, a shift file and an output
file, lets a fork of itself draw into that: fork after fork begins with nothing loaded.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

import spectra
from spectra.bases.pipeline import load_pipeline
from spectra.generation.drawing import Request, draw
from spectra.generation.settings import Sampling


def pictures(pipe: Any) -> np.ndarray[Any, Any]:
    """Two pictures of a pipeline, `[2, h, w, 3]`."""
    requests = [Request("a sks sun", 0), Request("a sun", 1)]
    drawn = draw(pipe, requests, Sampling(steps=2, guidance=2.0, width=32, height=32))
    return np.stack([np.asarray(picture) for picture in drawn])


def use(pipe: Any, shift: Path) -> None:
    """Load a shift and let the pipeline compute with it."""
    spectra.activate(pipe, spectra.load(pipe, shift))


def main() -> None:
    """Serve lines of standard input."""
    for line in sys.stdin:
        base, shift, out = line.rstrip("\n").split("\t")
        child = os.fork()
        if child == 0:
            code = 1
            try:
                pipe = load_pipeline(base)
                use(pipe, Path(shift))
                np.save(out, pictures(pipe))
                code = 0
            finally:
                os._exit(code)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    main()
