"""A shift in ComfyUI and A1111: exported as files that they load, and checked before anything is copied.

    python examples/comfyui_and_a1111.py ./stable-diffusion-v1-5 dog.safetensors exported

Two files come out. `dog-lora.safetensors` is small, and loses what no LoRA can hold (norms, embeddings);
`dog-full.safetensors` has all that the program can load. Both programs take either as a LoRA:

    ComfyUI    models/loras/          the node "Load LoRA"
    A1111      models/Lora/           <lora:dog-lora:1> in the prompt
"""

from __future__ import annotations

import argparse
from pathlib import Path

import spectra


def main(arguments: list[str] | None = None) -> None:
    """Export a shift, and say what each program makes of the files."""
    parser = argparse.ArgumentParser(description="Export a shift for ComfyUI and A1111.")
    parser.add_argument("base", help="the base that the shift was trained on: a folder, file or hub id")
    parser.add_argument("shift", type=Path, help="a shift file")
    parser.add_argument("out", type=Path, help="folder for the exported files")
    given = parser.parse_args(arguments)

    shift = spectra.read_shift(given.shift)
    lora = given.out / f"{given.shift.stem}-lora.safetensors"
    full = given.out / f"{given.shift.stem}-full.safetensors"
    spectra.write_lora(shift, lora, base=given.base, layout="kohya", error=0.05, dtype="float16")
    spectra.write_difference(shift, full, base=given.base, dtype="float16")

    for file in (lora, full):
        print(f"{file}, {file.stat().st_size:,} bytes")
        for found in spectra.check_export(file, ["comfyui", "a1111"], base=given.base, shift=shift):
            if found.refusal:
                print(f"    {found.tool}: loads nothing: {found.refusal}")
            else:
                print(f"    {found.tool}: {found.weights} weights, error {found.error:.2%} of Delta W")


if __name__ == "__main__":
    main()
