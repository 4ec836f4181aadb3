"""The UNet: v-prediction on precomputed latents and captions, in mixed precision, for a time budget."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from torch.nn import functional as F

from recipe.mixed import MixedTrainer, fast_input
from recipe.progress import Log
from recipe.text import WIDTH

SNR_KNEE = 5.0


def build_unet() -> UNet2DConditionModel:
    """9.1M parameters.

    The caption reaches every block twice: by cross-attention, and pooled into the time embedding (`text` addition, as
    in DeepFloyd IF), which modulates every residual block. The pooled path learns classes much faster.
    """
    return UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        layers_per_block=1,
        block_out_channels=(64, 128, 160),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=WIDTH,
        attention_head_dim=4,
        norm_num_groups=16,
        addition_embed_type="text",
        addition_embed_type_num_heads=8,
        encoder_hid_dim=WIDTH,
        resnet_time_scale_shift="scale_shift",
    )


def build_scheduler() -> DDIMScheduler:
    """The pipeline's scheduler. `beta_end` leaves next to no signal at the last step (.016 of it; Stable Diffusion
    leaves .068), so that plain backgrounds can be any colour; `clip_sample` must be off, latents exceed one.
    """
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.02,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        clip_sample=False,
        set_alpha_to_one=False,
        timestep_spacing="trailing",
        steps_offset=1,
    )


@dataclass(frozen=True)
class Examples:
    """Latents (n, 4, 16, 16) of unit variance and captions (n, k, 24, 128), k per picture; `empty` is (24, 128)."""

    latents: torch.Tensor
    captions: torch.Tensor
    empty: torch.Tensor

    def batch(self, size: int, drop: float, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        pick = torch.randint(len(self.latents), (size,), generator=generator)
        which = torch.randint(self.captions.shape[1], (size,), generator=generator)
        captions = self.captions[pick, which].clone()
        captions[torch.rand(size, generator=generator) < drop] = self.empty
        return self.latents[pick].float(), captions.float()


def draw_timesteps(batch: int, total: int, generator: torch.Generator) -> torch.Tensor:
    """Timesteps (batch,), four in five among the lower 65 %, where drawings take shape; stratified over the batch."""
    spread = (torch.arange(batch) + torch.rand(batch, generator=generator)) / batch
    early, late = spread / 0.8 * 0.65, 0.65 + (spread - 0.8) / 0.2 * 0.35
    return (torch.where(spread < 0.8, early, late) * total).long().clamp(max=total - 1)


def train_unet(
    examples: Examples,
    work: Path,
    seconds: float,
    seed: int,
    batch: int = 32,
    peak: float = 1e-3,
    save_every: int = 250,
) -> None:
    """Trains for a time budget: warm-up of 200 steps (50 when going on), then a cosine to zero over the budget.

    The loss on v is weighted by 5 / (5 + SNR): even over the noisy steps, where class and background are decided, and
    as with min-SNR weighting little over the nearly clean ones. State goes to `work/unet.pt` and, for judging beside
    the training, the average to `work/unet-average.pt`; where the state exists, training continues from it.
    """
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    log, state_path, total = Log(work / "unet.log"), work / "unet.pt", 0
    trainer = MixedTrainer(build_unet())
    if state_path.exists():
        state = torch.load(state_path, weights_only=True)
        trainer.load(state)
        total = state["steps"]
    signal = build_scheduler().alphas_cumprod
    start, step, running, warm_up = time.time(), 0, 0.0, 50 if total else 200
    while (done := (time.time() - start) / seconds) < 1:
        lr = peak * min(1, (step + 1) / warm_up) * (0.5 * (1 + math.cos(math.pi * done)) + 0.002)
        latents, captions = examples.batch(batch, drop=0.1, generator=generator)
        noise = torch.randn(latents.shape, generator=generator)
        timesteps = draw_timesteps(batch, len(signal), generator)
        a = signal[timesteps].view(-1, 1, 1, 1)
        noisy, v = a.sqrt() * latents + (1 - a).sqrt() * noise, a.sqrt() * noise - (1 - a).sqrt() * latents
        out = trainer.fast(fast_input(noisy), timesteps, fast_input(captions)).sample.float()
        snr = (a / (1 - a)).flatten()
        loss = (F.mse_loss(out, v, reduction="none").mean((1, 2, 3)) * SNR_KNEE / (SNR_KNEE + snr)).mean()
        loss.backward()
        norm = trainer.step(lr, decay=min(0.9985, (total + 1) / (total + 10)))
        step, total = step + 1, total + 1
        running = loss.item() if step == 1 else 0.99 * running + 0.01 * loss.item()
        if step % 50 == 0:
            log(step=total, loss=running, norm=norm, lr=lr, seconds=time.time() - start)
        if step % save_every == 0:
            save(trainer, work, total)
    save(trainer, work, total)


def save(trainer: MixedTrainer, work: Path, steps: int) -> None:
    """Writes the whole state, and the average by itself; each to a temporary file first."""
    for name, state in (
        ("unet.pt", {**trainer.state(), "steps": steps}),
        ("unet-average.pt", {"unet": trainer.averaged().state_dict(), "steps": steps}),
    ):
        torch.save(state, work / (name + ".part"))
        (work / (name + ".part")).rename(work / name)
