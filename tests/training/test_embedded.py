"""The main job on the base that ships with the package, cut short: every part of it, few steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from spectra.bases.pipeline import load_pipeline
from spectra.shift.shift_file import read_shift
from spectra.training.config import make_config
from spectra.training.run.train import train


def test_the_embedded_base_takes_a_shift_of_less_than_a_hundred_kilobytes(tmp_path: Path, spectra_cli: Any) -> None:
    # The default rates are for hundreds of steps: their first ones overshoot.
    rates = {"lr": 3e-3, "lr_outer": 3e-3, "lr_word": 3e-3}
    few = {"steps": 3, **rates, "prior_count": 1, "prior_steps": 1, "validation_count": 1, "validation_steps": 1}
    summary = train(make_config({**few, "subject": "key"}), tmp_path / "key")
    assert summary.loss_after < summary.loss_before
    assert summary.bytes == (tmp_path / "key" / "key.safetensors").stat().st_size < 100_000
    assert summary.base_bytes <= 25_000_000
    shift = read_shift(summary.shift)
    assert shift.metadata.base == "spectra-base"
    assert {name.split(".")[0] for name in shift} == {"unet", "text_encoder"}
    ran = spectra_cli(
        "generate", "--shift", summary.shift, "--prompt", summary.prompt, "--steps", 1, "-o", tmp_path / "pictures"
    )
    assert ran.code == 0, ran.err


def test_the_instance_token_is_a_word_of_its_own() -> None:
    tokenizer = load_pipeline().tokenizer
    token, word = (tokenizer(text).input_ids for text in ("a drawing of a [V1] fox", "a drawing of a fox"))
    assert len(token) == len(word) + 1
    assert tokenizer.unk_token_id not in token[1:-1]
