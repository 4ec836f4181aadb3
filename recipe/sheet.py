"""Judges a pipeline over all concepts, and draws its contact sheet of 64 prompts."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from PIL import Image, ImageDraw

from recipe.captions import article
from recipe.judging import score
from recipe.scenes import COLOURS
from spectra.bases.embedded import GUIDANCE

STEPS = 20


def generate(pipe, prompts: list[str], seed: int = 0, guidance: float = GUIDANCE, batch: int = 44) -> list[Image.Image]:
    """One picture a prompt, each with a generator of its own."""
    pictures: list[Image.Image] = []
    for start in range(0, len(prompts), batch):
        some = prompts[start : start + batch]
        generators = [torch.Generator().manual_seed(seed + start + i) for i in range(len(some))]
        out = pipe(some, num_inference_steps=STEPS, guidance_scale=guidance, generator=generators)
        pictures += out.images
    return pictures


def sheet_prompts(concepts: list[str]) -> list[str]:
    """64 prompts: 40 plain, 18 on coloured backgrounds, 6 pairs."""
    picks = [concepts[i * len(concepts) // 64] for i in range(64)]
    colours = list(COLOURS)
    prompts = [f"a drawing of {article(noun)}" for noun in picks[:64:8] + picks[1:64:8] + picks[2:64:8]]
    prompts += [f"a drawing of {article(noun)}" for noun in picks[3:64:8] + picks[4:64:8]]
    rest = picks[5:64:8] + picks[6:64:8] + picks[7:57:8]
    for i, noun in enumerate(rest[:18]):
        prompts.append(f"a drawing of {article(noun)} on a {colours[1 + i % (len(colours) - 1)]} background")
    pairs = [
        ("fox", "pizza"),
        ("dog", "car"),
        ("apple", "banana"),
        ("cat", "rose"),
        ("sun", "house"),
        ("bee", "tulip"),
    ]
    return prompts + [f"{article(a)} on the left and {article(b)} on the right" for a, b in pairs]


def draw_sheet(pictures: list[Image.Image], prompts: list[str], path: Path, columns: int = 8) -> None:
    cell, strip = 96, 22
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (columns * cell, rows * (cell + strip)), "white")
    draw = ImageDraw.Draw(sheet)
    for i, (picture, prompt) in enumerate(zip(pictures, prompts, strict=True)):
        x, y = i % columns * cell, i // columns * (cell + strip)
        sheet.paste(picture.resize((cell - 4, cell - 4)), (x + 2, y))
        short = prompt.replace("a drawing of ", "").replace(" background", "").replace(" on the ", " ")
        words, lines = short.split(), [""]
        for word in words:
            lines = [*lines, word] if len(lines[-1]) + len(word) > 15 else [*lines[:-1], f"{lines[-1]} {word}".strip()]
        draw.text((x + 2, y + cell - 5), "\n".join(lines[:2]), fill="black", font_size=10, spacing=0)
    sheet.quantize(128).save(path, optimize=True)


def judge_pipeline(pipe, concepts: list[str], seeds: int = 1) -> dict:
    """Top-1, top-5 and mean cosine by nearest class mean over every concept, and which were missed."""
    rows, pictures, wanted = {}, [], []
    for seed in range(seeds):
        pictures += generate(pipe, [f"a drawing of {article(noun)}" for noun in concepts], seed=1000 * seed)
        wanted += concepts
    rows.update(score(pictures, wanted), pictures=len(pictures), guidance=GUIDANCE, steps=STEPS)
    rows["missed"] = sorted({c for p, c in zip(pictures, wanted, strict=True) if score([p], [c])["top1"] < 1})
    return rows


def report(pipe, concepts: list[str], folder: Path, steps: int, seeds: int = 1) -> dict:
    """Writes sheet.png and, as a line more, judged.jsonl."""
    folder.mkdir(exist_ok=True)
    prompts = sheet_prompts(concepts)
    draw_sheet(generate(pipe, prompts), prompts, folder / "sheet.png")
    result = {"unet_steps": steps, **judge_pipeline(pipe, concepts, seeds)}
    with (folder / "judged.jsonl").open("a") as file:
        file.write(json.dumps({k: round(v, 4) if isinstance(v, float) else v for k, v in result.items()}) + "\n")
    return result
