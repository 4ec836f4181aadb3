"""`spectra generate`: pictures by seed, their settings, shifts by scale, and what it refuses."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from picture_settings import read_settings
from PIL import Image

import spectra
from spectra.bases.embedded import GUIDANCE, is_embedded
from spectra.bases.pipeline import load_pipeline
from spectra.errors import InputError, PictureWarning
from spectra.generation.drawing import Request, draw, guidance_of, is_black, requests_for
from spectra.generation.prompt_words import unknown_words
from spectra.generation.settings import Sampling
from spectra.shift.scaled_files import parse_scales, parse_shift
from spectra.shift.shift import SpectralShift
from spectra.shift.shift_file import read_shift, write_shift
from spectra.training.config import defaults
from spectra.training.data.subjects import Subject
from spectra.training.loss.objectives import check_prompts

FEW = ("--steps", "2", "--guidance", "1")


@pytest.fixture(scope="module")
def tiny_shift(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A strong random shift for the tiny base."""
    pipe = load_pipeline(str(tiny_base))
    adapter = spectra.attach(pipe, "unet-ca,text-encoder")
    torch.manual_seed(0)
    for delta in adapter.deltas.values():
        delta.data.normal_(std=0.5).abs_()  # so that nothing is cut off
    path = tmp_path_factory.mktemp("shift") / "odd:name.safetensors"
    write_shift(adapter.shift(base="tiny"), path)
    adapter.detach()
    return path


def pixels(path: Path) -> np.ndarray[Any, np.dtype[np.int64]]:
    with Image.open(path) as picture:
        return np.asarray(picture).astype(np.int64)


def test_a_picture_depends_on_its_own_seed_alone(tiny_base: Path) -> None:
    pipe = load_pipeline(str(tiny_base))
    requests = [Request("a disc", 3), Request("a v", 4), Request("a disc", 5)]
    together = draw(pipe, requests, Sampling(2, 3.0))
    for request, picture in zip(requests, together, strict=True):
        [alone] = draw(pipe, [request], Sampling(2, 3.0))
        # A batch of another size may round otherwise.
        assert np.abs(np.asarray(alone, np.int64) - np.asarray(picture, np.int64)).max() <= 1
    assert np.abs(np.asarray(together[0], np.int64) - np.asarray(together[2], np.int64)).max() > 10


def test_pictures_carry_their_settings(spectra_cli: Any, tiny_base: Path, tiny_shift: Path, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("# a comment\n\na v dïsc\n", encoding="utf-8-sig")  # as Windows' Notepad saves it
    out = tmp_path / "pictures"
    ran = spectra_cli(
        "generate", "--base", tiny_base, "--shift", f"{tiny_shift}:0.5", "--prompt", "first", "--prompts", prompts,
        "--negative", "bad", "--seed", 7, "--seed", 20, "--count", 2, "--steps", 2, "--guidance", 2, "--batch", 3,
        "--width", 40, "-o", out, "--json",
    )  # fmt: skip
    assert (ran.code, ran.err) == (0, "")
    found = json.loads(ran.out)
    assert [(p["prompt"], p["seed"]) for p in found["pictures"]] == [
        (prompt, seed) for prompt in ("first", "a v dïsc") for seed in (7, 8, 20, 21)
    ]
    assert {path.name for path in out.iterdir()} == {
        "sheet.png", "pictures.json", ".spectra.json", *(p["file"] for p in found["pictures"]),
    }  # fmt: skip
    last = found["pictures"][-1]
    settings = read_settings(out / last["file"])
    assert {**settings, "file": last["file"]} == last
    assert (settings["width"], settings["height"], settings["steps"], settings["guidance"]) == (40, 32, 2, 2.0)
    assert settings["negative"] == "bad"
    assert settings["base"] == str(tiny_base)
    assert settings["shifts"] == [
        {"file": tiny_shift.name, "scale": 0.5, "content_hash": read_shift(tiny_shift).metadata.content_hash}
    ]
    assert settings["versions"]["spectra"] == spectra.__version__
    with Image.open(out / "sheet.png") as sheet:
        assert "spectra" not in sheet.info


def test_guidance_that_was_not_given_is_recorded_as_drawn(spectra_cli: Any, tiny_base: Path, tmp_path: Path) -> None:
    ran = spectra_cli("generate", "--base", tiny_base, "--prompt", "a", "--steps", 1, "-o", tmp_path / "out", "--json")
    [picture] = json.loads(ran.out)["pictures"]
    assert picture["guidance"] == 7.5  # StableDiffusionPipeline's


def test_a_negative_prompt_needs_guidance(spectra_cli: Any, tiny_base: Path, tmp_path: Path) -> None:
    ran = spectra_cli(
        "generate", "--base", tiny_base, "--prompt", "a", "--negative", "b", "--guidance", 1, "-o", tmp_path / "out"
    )
    assert ran.code == 1
    assert ran.err == "error: a negative prompt acts through guidance: expected more than 1, got 1\n"
    assert not (tmp_path / "out").exists()


def test_the_scale_decides_how_far_from_the_base(
    spectra_cli: Any, tiny_base: Path, tiny_shift: Path, tmp_path: Path
) -> None:
    drawn = {}
    for name, shift in {
        "base": (), "0": ("--shift", f"{tiny_shift}:0"), "1": ("--shift", tiny_shift),
        "halves": ("--shift", f"{tiny_shift}:0.5", "--shift", f"{tiny_shift}:0.5"),
    }.items():  # fmt: skip
        ran = spectra_cli("generate", "--base", tiny_base, *shift, "--prompt", "a", *FEW, "-o", tmp_path / name)
        assert ran.code == 0, ran.err
        drawn[name] = pixels(tmp_path / name / "0000-a-seed0.png")
    assert np.array_equal(drawn["base"], drawn["0"])
    assert np.abs(drawn["1"] - drawn["halves"]).max() <= 1
    assert np.abs(drawn["1"] - drawn["base"]).max() > 5


def test_several_scales_make_a_strip(spectra_cli: Any, tiny_base: Path, tiny_shift: Path, tmp_path: Path) -> None:
    """Scales of two shifts go together; each picture is the one that its scales alone would have given."""
    command = ("generate", "--base", tiny_base, "--prompt", "a", *FEW)
    strip = ("--shift", f"{tiny_shift}:1,.5,0", "--shift", f"{tiny_shift}:0,.5,0", "--seed", 1, "--seed", 2)
    ran = spectra_cli(*command, *strip, "-o", tmp_path / "strip", "--json")
    assert ran.code == 0, ran.err
    found = json.loads(ran.out)["pictures"]
    assert [(p["seed"], *(s["scale"] for s in p["shifts"])) for p in found] == [
        (seed, *scales) for seed in (1, 2) for scales in ((1.0, 0.0), (0.5, 0.5), (0.0, 0.0))
    ]
    drawn = [pixels(tmp_path / "strip" / p["file"]) for p in found[3:]]
    for name, shift in {"whole": ("--shift", tiny_shift), "base": ()}.items():
        assert spectra_cli(*command, *shift, "--seed", 2, "-o", tmp_path / name).code == 0
    whole, base = (pixels(tmp_path / name / "0000-a-seed2.png") for name in ("whole", "base"))
    assert np.abs(drawn[0] - whole).max() <= 1
    assert np.abs(drawn[1] - whole).max() <= 1
    assert np.array_equal(drawn[2], base)
    assert np.abs(base - whole).max() > 5
    with Image.open(tmp_path / "strip" / "sheet.png") as sheet:
        assert sheet.width == 10 + 3 * 170
    odd = spectra_cli(*command, "--shift", f"{tiny_shift}:1,2,3", "--shift", f"{tiny_shift}:1,2", "-o", tmp_path / "x")
    assert (odd.code, odd.err) == (1, "error: expected as many scales of each shift, or one, got 2 and 3\n")


def test_another_precision_is_a_rounded_copy(
    spectra_cli: Any, tiny_base: Path, tiny_shift: Path, tmp_path: Path
) -> None:
    drawn = {}
    for dtype in ("float32", "bfloat16"):
        ran = spectra_cli(
            "generate", "--base", tiny_base, "--shift", tiny_shift, "--prompt", "a", *FEW,
            "--dtype", dtype, "-o", tmp_path / dtype, "--json",
        )  # fmt: skip
        assert ran.code == 0, ran.err
        assert json.loads(ran.out)["pictures"][0]["dtype"] == dtype
        drawn[dtype] = pixels(tmp_path / dtype / "0000-a-seed0.png")
    assert ran.err.startswith("warning: shift ")
    assert "of which this model is a copy in bfloat16" in ran.err
    assert ran.err.count("\n") == 1
    difference = np.abs(drawn["float32"] - drawn["bfloat16"])
    assert 0 < difference.mean() < 10


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "nothing to draw"),
        (("--prompts", "none.txt"), "none.txt: cannot be read"),
        (("--prompt", "a", "--base", "no/such/base"), "no base there"),
        (("--prompt", "a", "--shift", "none.safetensors"), "no such file"),
        (("--prompt", "a", "--device", "nowhere"), "--device nowhere: cannot be used"),
        (("--prompt", "a", "--steps", "0"), "steps: expected a number of at least 1, at most 1000"),
        (("--prompt", "a", "--steps", "1001"), "steps: expected a number of at least 1, at most 1000"),
        (("--prompt", "a", "--guidance", "nan"), "guidance: expected a number"),
        (("--prompt", "a", "--width", "33", "--base", "TINY"), "multiples of 8 pixels, got 33"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    spectra_cli: Any, tiny_base: Path, tmp_path: Path, arguments: tuple[str, ...], says: str
) -> None:
    arguments = tuple(str(tiny_base) if argument == "TINY" else argument for argument in arguments)
    base = () if "--base" in arguments else ("--base", tiny_base)
    ran = spectra_cli("generate", *base, *arguments, "-o", tmp_path / "out")
    assert ran.code == 1
    assert says in ran.err
    assert ran.err.count("\n") == 1
    assert ran.out == ""
    assert list(tmp_path.iterdir()) == []


def test_a_shift_for_another_base_is_refused(
    spectra_cli: Any, other_base: Path, tiny_shift: Path, tmp_path: Path
) -> None:
    ran = spectra_cli("generate", "--base", other_base, "--shift", tiny_shift, "--prompt", "a", "-o", tmp_path / "out")
    assert ran.code == 1
    assert "trained on another base" in ran.err and "spectra transplant" in ran.err and "strict" not in ran.err
    assert not (tmp_path / "out").exists()


def test_only_its_own_folders_are_replaced(spectra_cli: Any, tiny_base: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = ("generate", "--base", tiny_base, "--prompt", "a", *FEW, "-o", out)
    assert spectra_cli(*command).code == 0
    again = spectra_cli(*command)
    assert again.code == 1
    assert "--force" in again.err
    assert spectra_cli(*command, "--seed", 2, "--force").code == 0
    assert (out / "0000-a-seed2.png").is_file()
    assert not (out / "0000-a-seed0.png").exists()
    foreign = tmp_path / "holiday"
    foreign.mkdir()
    (foreign / "beach.png").write_bytes(b"precious")
    refused = spectra_cli(*command[:-1], foreign, "--force")
    assert refused.code == 1
    assert "holds other files" in refused.err
    assert (foreign / "beach.png").read_bytes() == b"precious"


def test_a_scale_is_split_from_the_file(tiny_shift: Path) -> None:
    assert parse_shift(str(tiny_shift)) == (tiny_shift, 1.0)
    assert parse_shift(f"{tiny_shift}:-0.25") == (tiny_shift, -0.25)
    for bad in ("x", "", "nan", "inf"):
        with pytest.raises(InputError, match="expected a number after the colon"):
            parse_shift(f"{tiny_shift}:{bad}")
    assert parse_scales(f"{tiny_shift}:1,.5") == (tiny_shift, (1.0, 0.5))
    with pytest.raises(InputError, match="expected one number"):
        parse_shift(f"{tiny_shift}:1,.5")


def test_many_prompts_are_a_grid(spectra_cli: Any, tiny_base: Path, tmp_path: Path) -> None:
    prompts = [part for number in range(9) for part in ("--prompt", f"disc {number}")]
    assert spectra_cli("generate", "--base", tiny_base, *prompts, *FEW, "-o", tmp_path / "out").code == 0
    with Image.open(tmp_path / "out" / "sheet.png") as sheet:
        assert sheet.width == 10 + 8 * 170, "eight in a row"
        assert sheet.height < 3 * 170


@pytest.mark.parametrize(
    ("prompt", "told"),
    [
        ("a drawing of a [V1] fox", ""),
        ("a drawing of a fox", "the shift x has learnt '[V1]', and no prompt has it\n"),
        (
            "a drawing of a [V2] fox",
            "the shift x has learnt '[V1]', and no prompt has it; [V2] in them is no word of it",
        ),
    ],
)
def test_a_special_word_that_no_prompt_has_is_told(
    spectra_cli: Any, tiny_base: Path, tiny_shift: Path, tmp_path: Path, prompt: str, told: str
) -> None:
    shift = read_shift(tiny_shift)
    known = replace(shift.metadata, settings={"prompt": "a drawing of a [V1] fox"})
    write_shift(SpectralShift(dict(shift), known), tmp_path / "x.safetensors")
    ran = spectra_cli(
        "generate", "--base", tiny_base, "--shift", tmp_path / "x.safetensors", "--prompt", prompt, *FEW,
        "-o", tmp_path / "out",
    )  # fmt: skip
    assert ran.code == 0
    assert told in ran.err if told else "has learnt" not in ran.err


def test_the_embedded_base_says_what_it_does_not_know_and_keeps_its_guidance_when_baked() -> None:
    pipe = load_pipeline("")
    assert is_embedded(pipe)
    assert guidance_of(pipe, None) == GUIDANCE
    assert guidance_of(pipe, 2.0) == 2.0
    prompts = ["a drawing of a [V1] fox", "a Dragon beside an owl, 5 x"]
    assert unknown_words(pipe.tokenizer, prompts) == ["beside", "dragon"]
    prompt = "a drawing of a sks dragon"
    subject = Subject("dragon", (), (prompt,), prompt, "a drawing of a dragon")
    with pytest.warns(PictureWarning, match="the embedded base has not learnt dragon, and reads letters"):
        check_prompts(pipe, defaults(""), [subject])


def test_another_base_has_its_pipeline_s_guidance(tiny_base: Path) -> None:
    pipe = load_pipeline(str(tiny_base))
    assert not is_embedded(pipe)
    assert guidance_of(pipe, None) == 7.5


def test_black_pictures_are_named_with_their_cause(tiny_base: Path) -> None:
    pipe = load_pipeline(str(tiny_base))
    requests, sampling = requests_for(["a"], (0, 1)), Sampling(1, 1.0, 32, 32)
    assert not any(is_black(picture) for picture in draw(pipe, requests, sampling))
    with torch.no_grad():
        pipe.unet.conv_out.weight.fill_(float("nan"))
    with pytest.warns(PictureWarning, match="2 of 2 pictures are black: the model gives what is no number"):
        draw(pipe, requests, sampling)
    pipe.vae.quant_conv.to(torch.float16)  # which no drawing takes
    with pytest.warns(PictureWarning, match="overflow in float16; draw in bfloat16 or float32"):
        draw(pipe, requests, sampling)
