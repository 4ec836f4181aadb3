"""Small whole inputs for each reader."""

from __future__ import annotations

import functools
import io
import json
import tempfile
from pathlib import Path

import numpy as np
import random_shifts
import shifts_with_terms
import torch
from PIL import Image, PngImagePlugin
from safetensors.numpy import save

from spectra.shift.shift_file import encode_shift
from spectra.spectrum.cache import entry, leading_entry
from spectra.spectrum.cache.entry_file import EntryHeader, encode_entry

SHAPES: dict[str, tuple[int, ...]] = {
    "unet.a.to_q": (8, 8),
    "unet.b.fc1": (8, 16),
    "unet.conv": (4, 4, 3, 3),
    "unet.norm": (8,),
}
"""The base that foreign files are for."""


def weight(name: str) -> torch.Tensor:
    """A weight of that base."""
    return torch.ones(SHAPES[name])


def _random(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


@functools.cache
def shifts() -> list[bytes]:
    """Files of version 1 and 3."""
    plain = random_shifts.make(0, settings={"prompt": "a [V1] fox", "lr": 0.01}, parents=("0" * 32,))
    terms = shifts_with_terms.shift_with_terms(recipe={"method": "add", "shifts": [{"scale": 1.0}]})
    return [encode_shift(plain), encode_shift(plain, "float16"), encode_shift(terms), encode_shift(terms, "float16")]


@functools.cache
def packed() -> list[bytes]:
    """Packed files of version 2 and 3."""
    every = (random_shifts.make(1), shifts_with_terms.shift_with_terms(), shifts_with_terms.shift_with_mask())
    return [encode_shift(each, error=0.05) for each in every]


def loras() -> list[bytes]:
    """PEFT's, kohya's, LoHa, LoKr and a full difference."""
    config = {"unet.lora_alpha": 4, "unet.r": 2, "unet.alpha_pattern": {"a.to_q": 3}, "unet.rank_pattern": {}}
    pair = {"unet.a.to_q.lora_A.weight": _random(2, 8), "unet.a.to_q.lora_B.weight": _random(8, 2)}
    conv = {"unet.conv.lora_A.weight": _random(2, 4, 3, 3), "unet.conv.lora_B.weight": _random(4, 2, 1, 1)}
    kohya = {"lora_unet_b_fc1.lora_down.weight": _random(2, 16), "lora_unet_b_fc1.lora_up.weight": _random(8, 2)}
    halves = {
        f"lora_unet_a_to_q.hada_w{i}_{ab}": _random(*s) for i in (1, 2) for ab, s in (("a", (8, 2)), ("b", (2, 8)))
    }
    kron = {"lora_unet_a_to_q.lokr_w1": _random(2, 2), "lora_unet_a_to_q.lokr_w2": _random(4, 4)}
    return [
        save(pair | conv, {"lora_adapter_metadata": json.dumps(config)}),
        save(kohya | {"lora_unet_b_fc1.alpha": np.array(1, np.float32)}),
        save(halves | {"lora_unet_a_to_q.alpha": np.array(2, np.float32)}),
        save(kron),
        save({"lora_unet_a_to_q.diff": _random(8, 8), "lora_unet_norm.diff": _random(8)}),
    ]


def svdiffs() -> list[bytes]:
    """svdiff-pytorch's and dome272's layouts."""
    lengths = {"a.to_q": 8, "b.fc1": 8, "conv": 4, "norm": 1}
    return [
        save({f"{name}{end}": _random(n) for name, n in lengths.items()})
        for end in (".delta", ".parametrizations.weight.0.delta")
    ]


def embeddings() -> list[bytes]:
    """Of one text encoder, and of two."""
    return [save({"<sks>": _random(2, 6)}), save({"clip_l": _random(1, 6), "clip_g": _random(1, 8)})]


def pickles() -> list[bytes]:
    """Of tensors, by name and nested."""
    tensors = {f"{name}.delta": torch.ones(n) for name, n in (("a.to_q", 8), ("b.fc1", 8), ("norm", 1))}
    found = []
    for value in (tensors, {"a": {"to_q": {"delta": torch.ones(8)}}}):
        stream = io.BytesIO()
        torch.save(value, stream)
        found.append(stream.getvalue())
    return found


def recipes() -> list[bytes]:
    """Of a merge of two."""
    shift = '[[shifts]]\nfile = "fox.safetensors"\ncontent_hash = "%s"\nscale = 1.0\n'
    blocks = '[[blocks]]\npattern = "unet.up_blocks.1"\nweights = [1.0, 0.0]\n'
    text = 'method = "weighted"\nweights = [0.7, 0.3]\nseed = 0\ndensity = 0.5\nouter_rank = 2\n'
    return [(text + shift % ("0" * 32) + shift % ("1" * 32) + blocks).encode()]


def settings() -> list[bytes]:
    """Of one training, and of several subjects."""
    one = 'subject = "fox"\nsteps = 5\nlr = 0.01\nseed = 3\ndirections = "32:gradient"\nouter = "64kB"\nword = true\n'
    many = 'subjects = ["fox", "wolf"]\ncollage = 0.5\ncollage_prompts = ["{left} and {right}"]\n'
    return [one.encode(), many.encode(), b'images = "pics"\nprompt = "a [V1] x"\nclass_prompt = "a x"\n']


def concepts() -> list[bytes]:
    """Two concepts."""
    first = '[[concept]]\nname = "rex"\nimages = "pics"\nprompt = "a [V1] x"\nclass_prompt = "a x"\nseed = 1\n'
    return [f'steps = 5\nlr = 0.01\n{first}output = "o/rex"\n[[concept]]\nname = "tom"\nsubject = "fox"\n'.encode()]


@functools.cache
def entries() -> list[bytes]:
    """A whole spectrum, and leading directions."""
    full = {"sigma": _random(3).astype(np.float64), "basis": _random(3, 3), "tail": _random(0, 4)}
    leading = {"sigma": _random(2).astype(np.float64), "left": _random(2, 3), "right": _random(2, 4)}
    facts = {"residual": "0.0", "orthogonality": "0.0", "from_full": "no"}
    return [
        encode_entry(entry.FULL, EntryHeader("input", (3, 4), {"side": "left"}, {}, {}), full),
        encode_entry(leading_entry.LEADING, EntryHeader("input", (3, 4), facts, {}, {}), leading),
    ]


def base_files() -> list[bytes]:
    """A component in diffusers' layout, and one with scales."""
    weights = {f"{name.removeprefix('unet.')}.weight": _random(*shape) for name, shape in SHAPES.items()}
    return [save(weights, {"format": "pt"})]


def indices() -> list[bytes]:
    """A pipeline's index."""
    listed = {"unet": ["diffusers", "UNet2DConditionModel"], "text_encoder": ["transformers", "CLIPTextModel"]}
    return [json.dumps({"_class_name": "StableDiffusionPipeline", "vae": [None, None], **listed}).encode()]


@functools.cache
def pictures() -> list[bytes]:
    """A picture of each kind, with EXIF, text and a palette."""
    found = []
    for kind, mode in (("PNG", "RGBA"), ("PNG", "P"), ("JPEG", "RGB"), ("TIFF", "RGB"), ("WEBP", "RGB"), ("GIF", "P")):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "a"
            info = PngImagePlugin.PngInfo()
            info.add_text("spectra", json.dumps({"prompt": "x"}))
            exif = Image.Exif()
            exif[0x0112] = 6
            more = {"pnginfo": info} if kind == "PNG" else {"exif": exif} if kind != "GIF" else {}
            Image.new("RGB", (9, 7), "red").convert(mode).save(path, kind, **more)
            found.append(path.read_bytes())
    return found
