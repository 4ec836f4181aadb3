"""The example exports files that ComfyUI and A1111 load by their rules, and tells the errors that come of it."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import plain_base
import pytest
import tiny_base
import tools_by_rule
from safetensors.torch import load_file

import spectra
from spectra.bases.pipeline import load_pipeline
from spectra.families import targets

EXAMPLE = Path(__file__).parents[2] / "examples" / "comfyui_and_a1111.py"


def test_both_programs_load_what_is_exported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny_base.build().save_pretrained(tmp_path / "base")
    base = str(tmp_path / "base")
    pipe = load_pipeline(base)
    own = {each.name: each.weight.detach().clone() for each in targets(pipe, "unet,text-encoder")}
    spectra.write_shift(plain_base.mixed_shift(own, 3, 1), tmp_path / "dog.safetensors")
    runpy.run_path(str(EXAMPLE))["main"]([base, str(tmp_path / "dog.safetensors"), str(tmp_path / "out")])
    told = capsys.readouterr().out
    for file in ("dog-lora", "dog-full"):
        tensors = load_file(tmp_path / "out" / f"{file}.safetensors")
        assert {each.dtype.itemsize for key, each in tensors.items() if not key.endswith(".alpha")} == {2}
        loaded = tools_by_rule.comfyui(tensors, pipe)
        assert f"comfyui: {len(loaded)} weights" in told
        assert len(loaded) == (len(own) if file == "dog-full" else len(tensors) // 3)
    errors = [float(each) for each in re.findall(r"comfyui: .*error ([\d.]+)%", told)]
    assert errors[0] > 5 > 0.1 > errors[1]
