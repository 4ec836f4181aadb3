"""A shift where a LoRA was: the ten lines of a script that loads LoRAs, with what each becomes.

python examples/shift_instead_of_lora.py ./stable-diffusion-v1-5 dog.safetensors style.safetensors pictures
"""

from __future__ import annotations

import sys
from pathlib import Path

from diffusers import DiffusionPipeline

import spectra


def main(arguments: list[str]) -> None:
    """Draw with one shift, with two, with one in the other's place, and with the base."""
    base, dog, style, out = arguments
    folder = Path(out)
    folder.mkdir()
    pipe = DiffusionPipeline.from_pretrained(base)

    def draw(name: str) -> None:
        pipe("a drawing of a dog", num_inference_steps=4).images[0].save(folder / f"{name}.png")

    spectra.load(pipe, dog, adapter_name="dog")  # pipe.load_lora_weights(dog, adapter_name="dog")
    draw("dog")
    spectra.load(pipe, style, adapter_name="style")  # pipe.load_lora_weights(style, adapter_name="style")
    spectra.set_adapters(pipe, ["dog", "style"], [1.0, 0.4])  # pipe.set_adapters(["dog", "style"], [1.0, 0.4])
    draw("both")
    spectra.save(pipe, folder / "both.safetensors")  # pipe.save_lora_weights(...), of both as one
    spectra.delete_adapters(pipe, "dog")  # pipe.delete_adapters("dog")
    spectra.load(pipe, dog, adapter_name="style", hotswap=True)  # pipe.load_lora_weights(..., hotswap=True)
    spectra.disable(pipe)  # pipe.disable_lora()
    draw("base")
    spectra.unload(pipe)  # pipe.unload_lora_weights(), and the base is what it was, bit for bit


if __name__ == "__main__":
    main(sys.argv[1:])
