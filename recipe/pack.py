"""Packs the trained parts into a diffusers `StableDiffusionPipeline` folder, fp16, with model card and notice."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from pathlib import Path

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline
from transformers import CLIPTextModel, CLIPTokenizer

from recipe.icons import HERE
from recipe.unet import build_scheduler, build_unet
from recipe.vae import load_vae, save_vae

LIMIT = 25_000_000


def assemble(
    vae: AutoencoderKL, text_encoder: CLIPTextModel, tokenizer: CLIPTokenizer, unet
) -> StableDiffusionPipeline:
    pipe = StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=build_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def save_base(pipe: StableDiffusionPipeline, folder: Path, steps: int) -> int:
    """Writes the folder (its weights fp16) in place of the old one; returns its size in bytes."""
    with tempfile.TemporaryDirectory(dir=folder.parent) as parent:
        fresh = Path(parent) / "weights"
        pipe.save_pretrained(fresh, safe_serialization=True)
        for part in ("vae", "unet", "text_encoder"):
            halve(next((fresh / part).glob("*.safetensors")))
        for config in fresh.glob("*/*.json"):
            strip_paths(config)
        for name in ("model_card.md", "NOTICE"):
            text = (HERE / name).read_text().replace("{steps}", f"{steps:,}")
            (fresh / {"model_card.md": "README.md"}.get(name, name)).write_text(text)
        size = sum(path.stat().st_size for path in fresh.rglob("*") if path.is_file())
        if size > LIMIT:
            raise SystemExit(f"the base is {size / 1e6:.1f} MB, more than {LIMIT / 1e6:.0f} MB")
        check(fresh)
        fresh.chmod(0o755)
        if folder.exists():
            shutil.rmtree(folder)
        fresh.rename(folder)
    return size


def halve(path: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = {name: t.half().contiguous() if t.is_floating_point() else t for name, t in load_file(path).items()}
    save_file(tensors, path, metadata={"format": "pt"})
    path.chmod(0o644)


def strip_paths(config: Path) -> None:
    """Removes the path of the folder that a part was loaded from."""
    content = json.loads(config.read_text())
    content.pop("_name_or_path", None)
    config.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")


def check(folder: Path) -> None:
    """Loads the folder as a user would and makes one picture."""
    pipe = StableDiffusionPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    out = pipe("a drawing of a fox", num_inference_steps=2, generator=torch.Generator().manual_seed(0))
    if out.images[0].size != (64, 64):
        raise SystemExit(f"the packed base makes pictures of {out.images[0].size}, expected (64, 64)")


def load_parts(work: Path) -> tuple[AutoencoderKL, CLIPTextModel, CLIPTokenizer]:
    """VAE, text encoder and tokenizer of the work folder."""
    # plain attention: the fused one is slow on CPUs, and config.json keeps no word of it
    text_encoder = CLIPTextModel.from_pretrained(work / "text_encoder", attn_implementation="eager")
    return load_vae(work), text_encoder.eval(), CLIPTokenizer.from_pretrained(work / "tokenizer")


def load_trained(work: Path) -> tuple[StableDiffusionPipeline, int]:
    """The pipeline from the work folder's newest averages, fp32, and its UNet's steps."""
    vae, text_encoder, tokenizer = load_parts(work)
    state = torch.load(work / "unet-average.pt", weights_only=True)
    unet = build_unet()
    unet.load_state_dict(state["unet"])
    return assemble(vae, text_encoder, tokenizer, unet.eval()), state["steps"]


def shipped_steps(folder: Path) -> int:
    """The UNet's steps, as the model card tells them."""
    found = re.search(r"UNet steps at batch 32: ([\d,]+)", (folder / "README.md").read_text())
    return int(found[1].replace(",", "")) if found else 0


def restore(folder: Path, work: Path) -> None:
    """Fills a work folder from a packed base, so that training can go on from it."""
    pipe = StableDiffusionPipeline.from_pretrained(folder, torch_dtype=torch.float32)
    pipe.text_encoder.save_pretrained(work / "text_encoder")
    pipe.tokenizer.save_pretrained(work / "tokenizer")
    save_vae(pipe.vae, work)
    average = [p.detach() for p in pipe.unet.parameters()]
    state = {"model": pipe.unet.state_dict(), "average": average, "steps": shipped_steps(folder)}
    torch.save(state, work / "unet.pt")
