"""A training loop of one's own: that of diffusers' text-to-image example, with a shift's deltas as the parameters.

python examples/training_loop.py ./stable-diffusion-v1-5 photos "a photo of a [V] dog" dog.safetensors
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from diffusers import DDPMScheduler, StableDiffusionPipeline
from PIL import Image
from torch import Tensor

import spectra


def pixels(folder: str, size: int) -> Tensor:
    """All pictures of a folder, `[n, 3, size, size]` in [-1, 1]."""
    pictures = [Image.open(path).convert("RGB").resize((size, size)) for path in sorted(Path(folder).iterdir())]
    rows = [torch.frombuffer(bytearray(each.tobytes()), dtype=torch.uint8).reshape(size, size, 3) for each in pictures]
    return torch.stack(rows).permute(0, 3, 1, 2) / 127.5 - 1


def main(arguments: list[str], steps: int = 400, size: int = 512) -> list[float]:
    """Train, and write the shift; returns the loss of each step."""
    base, photos, prompt, out = arguments
    pipe = StableDiffusionPipeline.from_pretrained(base)
    noise_scheduler = DDPMScheduler.from_config(pipe.scheduler.config)
    for part in (pipe.vae, pipe.text_encoder, pipe.unet):
        part.requires_grad_(False)

    # Instead of unet.add_adapter(LoraConfig(...)):
    adapter = spectra.attach(pipe.unet, "unet-ca", directions=32, outer=1)
    optimizer = torch.optim.AdamW(adapter.parameters(), lr=1e-3)

    accelerator = Accelerator()
    model, optimizer = accelerator.prepare(adapter, optimizer)  # calling it calls the UNet
    with torch.no_grad():
        latents = pipe.vae.encode(pixels(photos, size)).latent_dist.mean * pipe.vae.config.scaling_factor
        states = pipe.encode_prompt(prompt, pipe.device, 1, False)[0].expand(len(latents), -1, -1)
    losses = []
    for _ in range(steps):
        noise = torch.randn_like(latents)
        timesteps = torch.randint(0, noise_scheduler.config.num_train_timesteps, (len(latents),))
        noisy = noise_scheduler.add_noise(latents, noise, timesteps)
        loss = F.mse_loss(model(noisy, timesteps, states).sample, noise)
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(adapter.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())

    spectra.write_shift(adapter.shift(base=base), out)
    adapter.detach()
    return losses


if __name__ == "__main__":
    main(sys.argv[1:])
