"""`spectra plan`: JSON that adds up, a table that fits a terminal, a command that trains, one line for bad input."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers  # noqa: F401  (here before a plan, which in a process of its own imports less of it)
import pytest

from spectra.cli.plan import _PLANNED
from spectra.settings import declared_settings
from spectra.training.config import TrainConfig


def test_a_family_is_planned_as_json(spectra_cli: Callable[..., Any]) -> None:
    ran = spectra_cli("plan", "--family", "flux2-klein", "--vram", "9.5GB", "--json")
    assert ran.code == 0, ran.err
    found = json.loads(ran.out)
    assert (found["family"], found["pipeline"], found["dtype"]) == ("flux2-klein", "Flux2KleinPipeline", "bfloat16")
    memory = found["memory"]
    counted = sum(memory["weights"].values()) + sum(
        memory[part] for part in ("spectra", "trained", "gradients", "optimizer", "activations")
    )
    assert memory["total"] == counted + memory["other"]
    assert found["phases"]["training"] == memory["total_checkpointed" if found["gradient_checkpointing"] else "total"]
    assert found["total"] == found["phases"][found["largest"]] == max(found["phases"].values())
    assert found["main_memory"] > memory["weights"]["transformer"] + memory["encoding"]["text_encoder"]
    assert found["fits"] is False
    assert found["fit"]["fits"] is True
    assert found["fit"]["total"] <= found["vram"] == 9_500_000_000
    assert found["fit"]["gradient_checkpointing"] is True
    assert {"memory.total", "spectra.seconds"} <= set(found["estimated"])


def test_a_table_fits_eighty_columns_and_ends_with_what_to_do(
    spectra_cli: Callable[..., Any], tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    ran = spectra_cli("plan", "--base", tiny_base, "--directions", "4", "--outer", "2", "--vram", "24GB")
    assert ran.code == 0, ran.err
    *table, heading, command = ran.out.rstrip().splitlines()
    assert all(len(line) <= 80 for line in table if str(tiny_base) not in line)
    assert heading == "Next"
    assert "Fits 24 GB" in ran.out
    assert "in the cache, once" in ran.out
    words = shlex.split(command)
    assert words[:4] == ["spectra", "train", "--base", str(tiny_base)]
    assert words[words.index("--directions") + 1] == "4"
    assert words[words.index("--outer") + 1] == "2"


def test_tokens_that_are_assumed_are_said(spectra_cli: Callable[..., Any]) -> None:
    ran = spectra_cli("plan", "--family", "z-image")
    assert ran.code == 0, ran.err
    assert "of 128 tokens each, which is assumed" in " ".join(ran.out.split())
    assert "assumed" not in spectra_cli("plan").out


def test_a_text_encoder_that_cannot_take_part_is_refused_in_a_line(spectra_cli: Callable[..., Any]) -> None:
    ran = spectra_cli("plan", "--family", "z-image", "--text-encoder")
    assert (ran.code, ran.out, ran.err.count("\n")) == (1, "", 1)
    assert ran.err.startswith("error: text encoder: it stays as it is")


def test_the_embedded_base_is_planned_without_a_word(spectra_cli: Callable[..., Any]) -> None:
    ran = spectra_cli("plan", "--json")
    assert ran.code == 0, ran.err
    found = json.loads(ran.out)
    assert found["next"] == "spectra train"
    assert (found["resolution"], found["vram"], found["fit"]) == (64, None, None)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["--family", "sd16"],
            "family: expected one of sd15, sdxl, sd3, flux, flux2-dev, flux2-klein, chroma, qwen-image, z-image",
        ),
        (["--family", "sd15", "--base", "a/b"], "give either --base (a/b) or --family (sd15), not both"),
        (["--family", "sd15", "--vram", "much"], "vram: expected a size such as 24GB, got 'much'"),
        (["--family", "sd15", "--target", "unet.nothing"], "holds no weight of this model"),
        (["--family", "sd15", "--resolution", "100"], "this base takes positive multiples of 64 pixels, got 100"),
        (["--base", "no/such/folder"], "no base there"),
    ],
)
def test_bad_input_is_one_line(spectra_cli: Callable[..., Any], arguments: list[str], said: str) -> None:
    ran = spectra_cli("plan", *arguments)
    assert (ran.code, ran.out) == (1, "")
    assert said in ran.err
    assert len(ran.err.strip().splitlines()) == 1


def test_every_setting_that_is_planned_is_a_training_s() -> None:
    assert set(_PLANNED) <= declared_settings(TrainConfig).keys()


def test_a_process_of_its_own_counts_the_same_with_fewer_packages(spectra_cli: Callable[..., Any]) -> None:
    program = """
import sys
from spectra.cli.app import main
code = main(["plan", "--family", "sd15", "--vram", "8GB", "--json"])
unwanted = ("peft", "bitsandbytes", "torchao", "torch._dynamo", "torch._dynamo.eval_frame", "torch.distributed.tensor")
print(code, [name for name in unwanted if name in sys.modules], file=sys.stderr)
"""
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ran.stderr.strip().splitlines()[-1] == "0 []"
    assert json.loads(ran.stdout) == json.loads(spectra_cli("plan", "--family", "sd15", "--vram", "8GB", "--json").out)
