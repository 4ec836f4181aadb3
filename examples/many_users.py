"""Many users in one batch: each picture of it is drawn with its own user's shift, by one model in memory.

    python examples/many_users.py ./stable-diffusion-v1-5 users pictures

`users` is a folder of shifts of one base, each named after its user.
"""

from __future__ import annotations

import sys
from pathlib import Path

from diffusers import DiffusionPipeline

import spectra


def main(arguments: list[str]) -> None:
    """Draw one picture for each user, all in one batch, and one without any shift."""
    base, users, out = arguments
    folder = Path(out)
    folder.mkdir()
    pipe = DiffusionPipeline.from_pretrained(base)
    names = [spectra.load(pipe, file, activate=False) for file in sorted(Path(users).glob("*.safetensors"))]
    with spectra.per_sample(pipe, [*names, {}]):
        pictures = pipe(["a drawing of a dog"] * (len(names) + 1), num_inference_steps=4).images
    for name, picture in zip([*names, "base"], pictures, strict=True):
        picture.save(folder / f"{name}.png")
    spectra.unload(pipe)


if __name__ == "__main__":
    main(sys.argv[1:])
