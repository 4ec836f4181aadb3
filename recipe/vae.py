"""The VAE: 64x64 RGB to 16x16 latents of 4 channels, trained on scenes with L1, edges and a light KL term."""

from __future__ import annotations

import math
import time
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch.nn import functional as F

from recipe.critic import Critic
from recipe.mixed import MixedTrainer, fast_copy, fast_input
from recipe.progress import Log

DECODER_NOISE = 0.2


def build_vae() -> AutoencoderKL:
    """1.3M parameters; the full-resolution stage is thin because it costs most."""
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(32, 48, 96),
        layers_per_block=2,
        latent_channels=4,
        norm_num_groups=16,
        sample_size=64,
    )


def to_signal(pictures: np.ndarray) -> torch.Tensor:
    """uint8 (n, h, w, 3) to float (n, 3, h, w) in [-1, 1]."""
    return torch.from_numpy(np.ascontiguousarray(pictures)).permute(0, 3, 1, 2).float().div_(127.5).sub_(1)


def edges(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return x[..., 1:] - x[..., :-1], x[..., 1:, :] - x[..., :-1, :]


def reconstruction_loss(out: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    sharp = sum(F.l1_loss(a, b) for a, b in zip(edges(out), edges(x), strict=True))
    return F.l1_loss(out, x) + F.mse_loss(out, x) + 0.5 * sharp


def psnr(vae: AutoencoderKL, pictures: np.ndarray) -> float:
    """Peak signal to noise ratio in dB of reconstructing uint8 (n, 64, 64, 3)."""
    with torch.no_grad():
        x = to_signal(pictures)
        out = vae.decode(vae.encode(x).latent_dist.mean).sample.clamp(-1, 1)
        return -10 * math.log10(F.mse_loss(out, x).item() / 4)


def train_vae(
    pictures: np.ndarray, held_out: np.ndarray, work: Path, seconds: float, seed: int, kl_weight: float = 1e-4
) -> AutoencoderKL:
    """Trains for a time budget: 40 px crops of 16 pictures first, whole pictures of 8 for the last 40 %.

    The state goes to `work/vae.pt`; where that exists, training continues from it.
    """
    torch.manual_seed(seed)
    trainer, state_path = MixedTrainer(build_vae(), weight_decay=1e-4), work / "vae.pt"
    if state_path.exists():
        trainer.load(torch.load(state_path, weights_only=True))
    _fit(trainer, pictures, held_out, Log(work / "vae.log"), seconds, seed, kl_weight, crops=0.6)
    torch.save(trainer.state(), state_path)
    return trainer.averaged()


def train_decoder(
    vae: AutoencoderKL, pictures: np.ndarray, held_out: np.ndarray, work: Path, seconds: float, seed: int
) -> AutoencoderKL:
    """Trains the decoder alone, on whole pictures: latents, and a UNet trained on them, stay valid.

    Some noise on the latents, which have unit variance, teaches it to draw clean areas and edges from latents that are
    a little off, as a small UNet's are. A critic that learns beside it keeps edges and small parts from being averaged.
    """
    torch.manual_seed(seed)
    trainer = MixedTrainer(vae, weight_decay=0.0)
    for part in (trainer.fast.encoder, trainer.fast.quant_conv):
        part.requires_grad_(False)
    log = Log(work / "decoder.log")
    _fit(
        trainer,
        pictures,
        held_out,
        log,
        seconds,
        seed,
        kl_weight=0.0,
        crops=0.0,
        peak=6e-4,
        noise=DECODER_NOISE,
        critic=Critic(),
    )
    return trainer.averaged()


def _fit(
    trainer: MixedTrainer,
    pictures: np.ndarray,
    held_out: np.ndarray,
    log: Log,
    seconds: float,
    seed: int,
    kl_weight: float,
    crops: float,
    peak: float = 1.2e-3,
    noise: float = 0.0,
    critic: Critic | None = None,
) -> None:
    """`crops` is the share of the time spent on crops; `noise` the greatest deviation of what is added to latents."""
    rng, fast = np.random.default_rng(seed), trainer.fast
    start, step, running = time.time(), 0, 0.0
    while (done := (time.time() - start) / seconds) < 1:
        lr = peak * min(1, (step + 1) / 100) * (0.5 * (1 + math.cos(math.pi * done)) + 0.01)
        if done < crops:
            batch = pictures[rng.integers(len(pictures), size=16)]
            top, left = rng.integers(0, 25, 2)
            batch = batch[:, top : top + 40, left : left + 40]
        else:
            batch = pictures[rng.integers(len(pictures), size=8)]
        x = to_signal(batch)
        posterior = fast.encode(fast_input(x)).latent_dist
        latents = posterior.sample()
        if noise:
            latents = latents + noise * torch.rand(len(x), 1, 1, 1) * torch.randn(latents.shape)
        out = fast.decode(fast_input(latents)).sample.float()
        loss = reconstruction_loss(out, x)
        kl = posterior.kl().float().mean() / posterior.mean[0].numel()
        verdict = min(1, step / 200) * critic.loss(out, x) if critic else 0
        (loss + kl_weight * kl + verdict).backward()
        trainer.step(lr, decay=min(0.998, (step + 1) / (step + 10)))
        if critic:
            critic.learn(out.detach(), x)
        step += 1
        running = loss.item() if step == 1 else 0.98 * running + 0.02 * loss.item()
        if step % 200 == 0:
            quality = psnr(trainer.averaged(), held_out)
            log(step=step, loss=running, kl=kl.item(), held_out_db=quality, seconds=time.time() - start)


def encode_pictures(vae: AutoencoderKL, pictures: np.ndarray, batch: int = 32) -> torch.Tensor:
    """Posterior means, float32 (n, 4, 16, 16), not scaled; computed in bf16, whose error is far below the noise."""
    fast, parts = fast_copy(vae), []
    with torch.no_grad():
        for start in range(0, len(pictures), batch):
            x = fast_input(to_signal(pictures[start : start + batch]))
            parts.append(fast.encode(x).latent_dist.mean.float().contiguous())
    return torch.cat(parts)


@torch.no_grad()
def whiten(vae: AutoencoderKL, pictures: np.ndarray) -> None:
    """Shifts and scales each latent channel to mean 0 and deviation 1 over pictures, inside the VAE.

    The 1x1 convolutions on both sides of the latents absorb it, so that reconstructions stay as they were; the
    scaling factor becomes 1.
    """
    latents = encode_pictures(vae, pictures)
    mean, std = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
    before, after, channels = vae.quant_conv, vae.post_quant_conv, len(std)
    after.bias += after.weight[:, :, 0, 0] @ mean
    after.weight *= std.view(1, -1, 1, 1)
    before.weight[:channels] /= std.view(-1, 1, 1, 1)
    before.bias[:channels] = (before.bias[:channels] - mean) / std
    before.bias[channels:] -= 2 * std.log()  # the log variance
    vae.register_to_config(scaling_factor=1.0)


def save_vae(vae: AutoencoderKL, work: Path) -> None:
    vae.save_pretrained(work / "vae")


def load_vae(work: Path) -> AutoencoderKL:
    return AutoencoderKL.from_pretrained(work / "vae").eval()
