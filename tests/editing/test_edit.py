"""`spectra edit` as a user runs it, on a tiny base."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from picture_settings import read_settings
from PIL import Image
from tiny_base import build

from spectra.bases import pipeline
from spectra.editing import edit as editing
from spectra.editing.session import EditSession
from spectra.families.family import Family
from spectra.shift.shift_file import read_shift

EDITS = ("--caption", "a disc", "--edit", "a red disc", "--edit", "a v")


@pytest.fixture
def given(tiny_base: Path, photo: Path) -> list[Any]:
    """An edit that works, and is quick."""
    return [photo, *EDITS, "--base", tiny_base, "--steps", 3, "--device", "cpu"]


TRAINING = ("--train-steps", 3, "--lr", 0.01, "--target", "mid-block")


def pixels(path: Path) -> Any:
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"), int)


def test_an_edit_and_another_from_what_was_learnt(
    spectra_cli: Callable[..., Any], given: list[Any], tmp_path: Path
) -> None:
    out = tmp_path / "first"
    ran = spectra_cli("edit", *given, *TRAINING, "-o", out, "--json")
    assert ran.code == 0, ran.err
    report = json.loads(ran.out)
    assert [path.name for path in tmp_path.iterdir()] == ["first"]
    assert json.loads((out / editing.INDEX).read_text()) == report
    shift = read_shift(report["shift"])
    assert report["shift"] == str(out / "training" / "first.safetensors")
    learnt = report["training"]
    assert learnt["shift"] == report["shift"] and report["shift"] in learnt["try"][0]
    assert all(Path(learnt[name]).exists() for name in ("folder", "sheet", "config", "loss_curve"))
    assert shift.floats > 0
    assert any(delta.any() for delta in shift.values())
    assert [each["prompt"] for each in report["inversions"]] == ["a disc", "a red disc", "a v"]
    assert all(each["error"] > 0 for each in report["inversions"])
    assert [each["prompt"] for each in report["pictures"]] == ["a red disc", "a v"]
    for each in report["pictures"]:
        settings = read_settings(out / each["file"])
        assert settings == {name: value for name, value in each.items() if name != "file"}
        assert (settings["guidance"], settings["eta"], settings["noise_mix"], settings["keep"]) == (3.0, 0.0, 0.0, 0.0)
        assert settings["shifts"][0]["content_hash"] == shift.metadata.content_hash
        assert (settings["width"], settings["height"]) == (32, 32)

    sweep = ["--shift", report["shift"], "--noise-mix", 0, "--noise-mix", 1, "--scale", 0, "--scale", 1]
    again = spectra_cli("edit", *given, *sweep, "-o", tmp_path / "second", "--json")
    assert again.code == 0, again.err
    second = json.loads(again.out)
    assert second["training"] is None
    assert second["shift"] == report["shift"]
    assert not (tmp_path / "second" / "training").exists()
    drawn = {(each["prompt"], each["shifts"][0]["scale"], each["noise_mix"]): each["file"]
             for each in second["pictures"]}  # fmt: skip
    assert len(drawn) == 2 * 2 * 2
    # The same shift, scale and noise: the same picture, whether it was trained just now or read.
    mine = pixels(tmp_path / "second" / drawn["a red disc", 1.0, 0.0])
    assert np.abs(mine - pixels(out / report["pictures"][0]["file"])).max() <= 1
    assert np.abs(mine - pixels(tmp_path / "second" / drawn["a red disc", 1.0, 1.0])).max() > 1
    assert np.abs(mine - pixels(tmp_path / "second" / drawn["a red disc", 0.0, 0.0])).max() > 1


def test_anchored_at_the_caption(spectra_cli: Callable[..., Any], given: list[Any], tmp_path: Path) -> None:
    ran = spectra_cli("edit", *given, *TRAINING, "--anchor", "caption", "--edit", "a disc", "--guidance", 1,
                      "-o", tmp_path / "out")  # fmt: skip
    assert ran.code == 0, ran.err
    assert max(map(len, ran.out.replace(str(tmp_path), "").splitlines())) <= 80
    report = json.loads((tmp_path / "out" / editing.INDEX).read_text())
    assert [each["prompt"] for each in report["inversions"]] == ["a disc"]
    # Drawn with its own caption from its own noise, the picture comes back.
    unchanged = next(each["file"] for each in report["pictures"] if each["prompt"] == "a disc")
    difference = np.abs(pixels(tmp_path / "out" / unchanged) - pixels(tmp_path / "out" / "unedited.png"))
    assert difference.max() <= 2


def test_what_an_edit_does_not_ask_to_change_is_kept(
    spectra_cli: Callable[..., Any], given: list[Any], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    ran = spectra_cli("edit", *given, *TRAINING, "--edit", "a disc", "--keep", 0, "--keep", 0.4, "--keep", 1,
                      "--anchor", "caption", "--batch", 2, "-o", out)  # fmt: skip
    assert ran.code == 0, ran.err
    report = json.loads((out / editing.INDEX).read_text())
    drawn = {(each["prompt"], each["keep"]): each for each in report["pictures"]}
    assert len(drawn) == len(report["pictures"]) == 3 * 3
    unedited = pixels(out / editing.UNEDITED)
    for prompt in ("a red disc", "a v"):
        shares = [drawn[prompt, keep]["kept"] for keep in (0.0, 0.4, 1.0)]
        assert shares[0] == 0 < shares[1] < shares[2]
        away = [np.abs(pixels(out / drawn[prompt, keep]["file"]) - unedited).mean() for keep in (0.0, 0.4, 1.0)]
        assert away[0] > away[1] > away[2]
    # The caption itself asks for no change at all.
    assert (pixels(out / drawn["a disc", 0.4]["file"]) == unedited).all()
    settings = read_settings(out / drawn["a v", 0.4]["file"])
    assert (settings["keep"], settings["kept"]) == (0.4, drawn["a v", 0.4]["kept"])


def test_an_edit_of_which_nearly_nothing_is_left_says_so(
    spectra_cli: Callable[..., Any], given: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny = given[given.index("--base") + 1]
    monkeypatch.setattr(pipeline, "embedded_path", lambda: tiny)
    given[given.index("--base") + 1] = "spectra-base"
    asked = [given[0], "--caption", "a disc", "--edit", "a disc", *given[given.index("--base") :]]
    said = "hint: the unedited picture stays in 100% of 'a disc'; --keep 0 draws"
    ran = spectra_cli("edit", *asked, *TRAINING, "-o", tmp_path / "by-default")
    assert ran.code == 0, ran.err
    assert said in ran.err
    ran = spectra_cli("edit", *asked, *TRAINING, "--keep", 0.5, "-o", tmp_path / "as-asked")
    assert ran.code == 0, ran.err
    assert said not in ran.err


def test_an_interrupted_edit_keeps_what_was_learnt(
    spectra_cli: Callable[..., Any], given: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    out = tmp_path / "out"
    with monkeypatch.context() as patched:
        patched.setattr(EditSession, "draw", interrupted)
        assert spectra_cli("edit", *given, *TRAINING, "-o", out).code == 130
    kept = tmp_path / "out.training" / "out" / "out.safetensors"
    assert [path.name for path in tmp_path.iterdir()] == ["out.training"]
    refused = spectra_cli("edit", *given, *TRAINING, "-o", out)
    assert refused.code == 1
    assert f"--shift {kept}" in refused.err
    assert spectra_cli("edit", *given, "--shift", kept, "-o", out).code == 0
    assert spectra_cli("edit", *given, *TRAINING, "-o", out, "--force").code == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


def test_bad_input(spectra_cli: Callable[..., Any], given: list[Any], tmp_path: Path) -> None:
    build(seed=1).save_pretrained(tmp_path / "other")
    learnt = tmp_path / "learnt"
    assert spectra_cli("edit", *given, *TRAINING, "-o", learnt).code == 0
    shift = learnt / "training" / "learnt.safetensors"
    text = tmp_path / "notes.txt"
    text.write_text("not a picture")
    several = tmp_path / "several"
    several.mkdir()
    for name in ("a.png", "b.png"):
        Image.new("RGB", (32, 32)).save(several / name)
    for arguments, said in (
        ([several, *given[1:]], "expected one picture to edit, got a folder with 2; name one"),
        ([*given, "--shift", shift, "--train-steps", 2], "--shift trains nothing"),
        ([*given, "--no-inversion", "--noise-mix", 0.5], "leave out --inversion"),
        ([*given, "--shift", shift, "--base", tmp_path / "other"], "another"),
        ([text, *given[1:]], "cannot be read as a picture"),
        ([tmp_path / "none.png", *given[1:]], "none.png"),
        ([*given, "--resolution", 34], "multiples of 8 pixels"),
        ([*given, "--device", "nowhere"], "--device nowhere: cannot be used"),
        ([*given, "-o", learnt], "exists already"),
    ):
        extra = [] if "-o" in arguments else ["-o", tmp_path / "x"]
        ran = spectra_cli("edit", *arguments, *extra)
        assert ran.code == 1, (arguments, ran.out, ran.err)
        assert said in ran.err
        assert ran.err.count("\n") == 1
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_explained_is_one_for_who_knows_and_nothing_for_who_guesses(
    prediction: str, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = EditSession(build(prediction=prediction), Image.open(photo).convert("RGB").resize((32, 32)))
    # Without the spread that the VAE's encoder leaves about the latents: nobody could know that.
    known_latents = session.latents, torch.zeros_like(session.latents)
    monkeypatch.setattr(Family, "encode_pictures", lambda *_: known_latents)
    levels = session.pipe.scheduler.alphas_cumprod

    def knowing(known: torch.Tensor) -> Callable[..., torch.Tensor]:
        def predict(pipe: Any, noisy: torch.Tensor, timesteps: torch.Tensor, condition: Any) -> torch.Tensor:
            signal = levels[timesteps].sqrt().view(-1, 1, 1, 1)
            spread = (1 - levels[timesteps]).sqrt().view(-1, 1, 1, 1)
            noise = (noisy - signal * known) / spread
            if prediction == "sample":
                return known.expand_as(noisy)
            return noise if prediction == "epsilon" else signal * noise - spread * known

        return predict

    explained = []
    for known in (session.latents, torch.zeros_like(session.latents), -session.latents):
        session.family = replace(session.family, predict=knowing(known))
        explained.append(session.measure_fitness("a disc").explained)
    assert explained[0] == pytest.approx(1, abs=1e-3)
    assert 0 < explained[1] < 1  # it knows where there is no noise
    assert explained[2] < explained[1]
