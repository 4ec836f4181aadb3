"""The text encoder, taught before the UNet: what does a caption show, where, on which background, from which icon set?

A text encoder trained from scratch beside the UNet learns far too slowly (top-1 .05 after 1,900 steps). Here captions
alone are its data: cosines with EfficientNet class means (contrast over all concepts) give neighbouring concepts
neighbouring embeddings, and small heads ask for the concepts on both sides, the background and the style.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from recipe.captions import FILLER_TOKENS, STYLES, SUBJECT_TOKENS, write_caption
from recipe.data import Data
from recipe.progress import Log
from recipe.scenes import COLOURS, Scene, choose_scene
from recipe.tokenizer import LENGTH

WIDTH = 128


def build_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """CLIP's text model with 3 layers of width 128; 0.9M parameters."""
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        projection_dim=WIDTH,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=LENGTH,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    # plain attention: the fused one's backward pass is slow on CPUs
    return CLIPTextModel._from_config(config, attn_implementation="eager")


def token_table(model: CLIPTextModel) -> torch.Tensor:
    return model.get_input_embeddings().weight


@torch.no_grad()
def draw_strangers(model: CLIPTextModel, ids: torch.Tensor, std: float) -> None:
    """Gives the spare tokens fresh random embeddings, so that none of them ever means anything."""
    token_table(model)[ids] = std * torch.randn(len(ids), WIDTH)


@dataclass(frozen=True)
class Questions:
    """Targets for a set of captions, each int64 (n,); -100 where nothing is asked."""

    left: torch.Tensor
    right: torch.Tensor
    background: torch.Tensor
    icon_set: torch.Tensor


def ask(data: Data, scenes: list[Scene], captions: list[str]) -> Questions:
    nothing, colours, icon_sets = len(data.concepts), list(COLOURS), list(STYLES)
    place = {name: i for i, name in enumerate(data.concepts)}
    of = [place[drawing.concept] for drawing in data.drawings]
    left = [of[scene.drawings[0]] for scene in scenes]
    right = [of[scene.drawings[1]] if len(scene.drawings) == 2 else nothing for scene in scenes]
    ground = [colours.index(scene.background) + 1 if scene.background else 0 for scene in scenes]
    icon_set = []
    for scene, caption in zip(scenes, captions, strict=True):
        name = data.drawings[scene.drawings[0]].icon_set
        icon_set.append(icon_sets.index(name) if f"a {STYLES[name]} " in caption else -100)
    return Questions(*(torch.tensor(values) for values in (left, right, ground, icon_set)))


class Heads(nn.Module):
    """The questions, asked of a pooled caption (n, 128)."""

    def __init__(self, class_means: torch.Tensor) -> None:
        super().__init__()
        concepts = len(class_means)
        self.register_buffer("class_means", class_means)  # (concepts, 1280), unit length
        self.image = nn.Linear(WIDTH, class_means.shape[1])
        self.left, self.right = nn.Linear(WIDTH, concepts), nn.Linear(WIDTH, concepts + 1)
        self.background, self.icon_set = nn.Linear(WIDTH, len(COLOURS) + 1), nn.Linear(WIDTH, len(STYLES))

    def forward(self, pooled: torch.Tensor, asked: Questions) -> tuple[torch.Tensor, torch.Tensor]:
        """The loss, and which left concepts were right (n,)."""
        cosines = F.normalize(self.image(pooled), dim=-1) @ self.class_means.T
        left = self.left(pooled)
        loss = F.cross_entropy(cosines / 0.05, asked.left) + F.cross_entropy(left, asked.left)
        loss = loss + F.cross_entropy(self.right(pooled), asked.right)
        loss = loss + F.cross_entropy(self.background(pooled), asked.background)
        if (asked.icon_set >= 0).any():
            loss = loss + 0.5 * F.cross_entropy(self.icon_set(pooled), asked.icon_set)
        return loss, left.argmax(1) == asked.left


def tokenise(tokenizer: CLIPTokenizer, captions: list[str]) -> torch.Tensor:
    """Token ids, int64 (n, 24)."""
    out = tokenizer(captions, padding="max_length", max_length=LENGTH, truncation=True, return_tensors="pt")
    return out.input_ids


def pretrain_text(
    data: Data, tokenizer: CLIPTokenizer, class_means: torch.Tensor, log: Log, steps: int, seed: int
) -> CLIPTextModel:
    """Trains the text encoder on captions alone; `class_means` is (concepts, 1280), centred, of unit length."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    scenes = [choose_scene(int(rng.choice(data.known)), data.known, rng, pairs=0.2) for _ in range(24000)]
    captions = [write_caption(scene, data, rng) for scene in scenes]
    ids, asked = tokenise(tokenizer, captions), ask(data, scenes, captions)
    model, heads = build_text_encoder(tokenizer), Heads(class_means)
    with torch.no_grad():
        token_table(model).mul_(2.0)
    strangers = torch.tensor(tokenizer.convert_tokens_to_ids([t.lower() for t in SUBJECT_TOKENS + FILLER_TOKENS]))
    optimizer = torch.optim.AdamW([*model.parameters(), *heads.parameters()], lr=1e-3, weight_decay=1e-2)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 1.5e-3 * min(1, (step + 1) / 50) * (0.5 * (1 + math.cos(math.pi * step / steps)) + 0.01)
        draw_strangers(model, strangers, token_table(model).std().item())
        pick = torch.from_numpy(rng.integers(len(ids), size=96))
        hidden = model(ids[pick]).last_hidden_state
        batch = Questions(*(values[pick] for values in vars(asked).values()))
        ends = (ids[pick] == tokenizer.eos_token_id).int().argmax(1)
        first, right = heads(hidden[torch.arange(len(pick)), ends], batch)
        last, _ = heads(hidden[:, -1], batch)
        optimizer.zero_grad(set_to_none=True)
        (first + last).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if (step + 1) % 50 == 0:
            log(step=step + 1, loss=first.item(), concept_right=right.float().mean().item())
    draw_strangers(model, strangers, token_table(model).std().item())
    return model.eval()


@torch.no_grad()
def encode_captions(model: CLIPTextModel, ids: torch.Tensor, batch: int = 256) -> torch.Tensor:
    """Hidden states as the UNet sees them, fp16 (n, 24, 128)."""
    return torch.cat([model(ids[i : i + batch]).last_hidden_state.half() for i in range(0, len(ids), batch)])
