"""`python -m recipe`: makes the embedded base anew, or carries single stages on.

    python -m recipe                       everything, about 2.5 hours on one core with AMX
    python -m recipe unet pack report --unet-seconds 3600    trains the UNet for another hour, packs and judges it
    python -m recipe restore unet pack report                the same from the shipped weights alone

Work is kept in `--work` (build/base by default): drawings, latents, optimizer and averages. Stages train on from the
state they find there; delete the folder to begin again.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
WEIGHTS = ROOT / "spectra" / "bases" / "embedded" / "weights"
CLASS_MEANS = ROOT / "benchmarks" / "trainings" / "class_means.safetensors"
RESULTS = Path(__file__).parent / "results"
ALL = ("fetch", "list", "subjects", "judge", "tokenizer", "vae", "text", "examples", "unet", "pack", "report")


class Recipe:
    """The stages, in the order of `ALL`; each reads what the earlier ones left in the work folder."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self.work: Path = arguments.work
        self.modules: Path = arguments.modules or self.work / "node_modules"
        self.seed: int = arguments.seed

    def fetch(self) -> None:
        """The icon sets and labels, by npm, at the versions of recipe/package.json."""
        if self.arguments.modules is None:
            shutil.copy(Path(__file__).with_name("package.json"), self.work)
            subprocess.run(["npm", "install", "--no-audit", "--no-fund"], cwd=self.work, check=True)

    def list(self) -> None:
        from recipe.data import make_list

        make_list(self.modules)

    def _data(self):
        from recipe.data import load_data

        return load_data(self.modules, self.work)

    def subjects(self) -> None:
        from recipe.subjects import save_subjects

        save_subjects(self.modules, self._data().drawings)

    def judge(self) -> None:
        """Class means, and what the held-out drawings themselves score against them."""
        from PIL import Image

        from recipe.data import draw_plain
        from recipe.judging import make_class_means, score

        data = self._data()
        make_class_means(data, CLASS_MEANS)
        real = [Image.fromarray(picture) for picture in draw_plain(data, data.held_out)]
        print("held-out drawings:", score(real, [data.drawings[i].concept for i in data.held_out]))

    def tokenizer(self) -> None:
        from recipe.captions import FILLER_TOKENS, SUBJECT_TOKENS, all_words
        from recipe.tokenizer import check_tokenizer, train_tokenizer

        tokenizer = train_tokenizer(all_words(self._data()), SUBJECT_TOKENS + FILLER_TOKENS)
        check_tokenizer(tokenizer)
        tokenizer.save_pretrained(self.work / "tokenizer")

    def vae(self) -> None:
        from recipe.data import draw_plain, draw_scenes
        from recipe.vae import save_vae, train_vae, whiten

        data = self._data()
        pictures, _ = draw_scenes(data, 10, self.seed)
        vae = train_vae(pictures, draw_plain(data, data.held_out), self.work, self.arguments.vae_seconds, self.seed)
        whiten(vae, pictures[:: len(pictures) // 600])
        save_vae(vae, self.work)

    def decoder(self) -> None:
        """Trains on the decoder alone: latents, and so the UNet, stay valid."""
        from recipe.data import draw_plain, draw_scenes
        from recipe.vae import load_vae, save_vae, train_decoder

        data = self._data()
        pictures, _ = draw_scenes(data, 10, self.seed + 1)
        held_out = draw_plain(data, data.held_out)
        vae = load_vae(self.work)
        save_vae(
            train_decoder(vae, pictures, held_out, self.work, self.arguments.vae_seconds, self.seed),
            self.work,
        )

    def text(self) -> None:
        from transformers import CLIPTokenizer

        from recipe.judging import make_class_means
        from recipe.progress import Log
        from recipe.text import pretrain_text

        data = self._data()
        tokenizer = CLIPTokenizer.from_pretrained(self.work / "tokenizer")
        means = make_class_means(data, CLASS_MEANS)
        model = pretrain_text(data, tokenizer, means, Log(self.work / "text.log"), 900, self.seed)
        model.save_pretrained(self.work / "text_encoder")

    def _examples(self) -> Path:
        return self.work / f"examples-{self.seed}.pt"

    def examples(self) -> None:
        from recipe.examples import make_examples
        from recipe.pack import load_parts

        vae, text_encoder, tokenizer = load_parts(self.work)
        make_examples(self._data(), vae, text_encoder, tokenizer, 12, self.seed, self._examples())

    def unet(self) -> None:
        from recipe.examples import load_examples
        from recipe.unet import train_unet

        if not self._examples().exists():
            self.examples()
        train_unet(
            load_examples(self._examples()),
            self.work,
            self.arguments.unet_seconds,
            self.seed,
            peak=self.arguments.unet_lr,
        )

    def pack(self) -> None:
        from recipe.pack import load_trained, save_base

        pipe, steps = load_trained(self.work)
        size = save_base(pipe, WEIGHTS, steps)
        print(f"{WEIGHTS.relative_to(ROOT)}: {size / 1e6:.1f} MB after {steps:,} steps")

    def report(self) -> None:
        """Judges the shipped weights, not those in the work folder."""
        from diffusers import StableDiffusionPipeline

        from recipe.pack import shipped_steps
        from recipe.sheet import report

        pipe = StableDiffusionPipeline.from_pretrained(WEIGHTS)
        pipe.set_progress_bar_config(disable=True)
        print(report(pipe, self._data().concepts, RESULTS, shipped_steps(WEIGHTS), self.arguments.seeds))

    def restore(self) -> None:
        """Fills the work folder from the shipped weights: all that is lost is the optimizer's state."""
        from recipe.pack import restore

        restore(WEIGHTS, self.work)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m recipe", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "stages",
        nargs="*",
        help=f"any of {', '.join(ALL)}, decoder, restore; all but the last two by default",
    )
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "base")
    parser.add_argument("--modules", type=Path, help="a node_modules folder that has the icon sets already")
    parser.add_argument("--seed", type=int, default=0, help="another seed draws other scenes")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--vae-seconds", type=float, default=1200)
    parser.add_argument("--unet-seconds", type=float, default=5400)
    parser.add_argument("--unet-lr", type=float, default=1e-3, help="the peak; about half of it when training goes on")
    parser.add_argument("--seeds", type=int, default=1, help="pictures per concept in the report")
    arguments = parser.parse_args()
    unknown = set(arguments.stages) - {*ALL, "decoder", "restore"}
    if unknown:
        parser.error(f"unknown stage {', '.join(sorted(unknown))}; there are {', '.join(ALL)}, decoder, restore")
    # diffusers probes for a package named `kernels`; the folder of that name here is not it
    sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != ROOT]
    import torch

    torch.set_num_threads(arguments.threads)
    arguments.work.mkdir(parents=True, exist_ok=True)
    recipe = Recipe(arguments)
    for stage in arguments.stages or ALL:
        print(f"--- {stage}", flush=True)
        getattr(recipe, stage)()


if __name__ == "__main__":
    main()
