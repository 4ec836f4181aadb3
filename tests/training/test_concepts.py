"""Several concepts trained together: each comes out as if it had been trained alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from learnt import as_they_are, in_turn
from PIL import Image
from trainings import interrupted_after, read_training

from spectra import attach
from spectra.errors import InputError, MistakesError, SpectraError
from spectra.families.known import family_of
from spectra.families.noise_schedule import DiffusionSchedule
from spectra.shift.shift_file import read_shift
from spectra.training.config import make_config
from spectra.training.data.class_pictures import prior_prompts
from spectra.training.data.latents import PictureSource
from spectra.training.data.prompt_embeddings import Conditions
from spectra.training.loss.denoising import DenoisingObjective
from spectra.training.run.accelerator import make_accelerator
from spectra.training.run.batches import Concept
from spectra.training.run.concept_parameters import ConceptParameters
from spectra.training.run.concepts import CONCEPT_SETTINGS, ConceptSpec, read_concepts
from spectra.training.run.loop import Loop
from spectra.training.run.optimizer import rate_settings
from spectra.training.run.train import train, train_together

OWN_SETTINGS: tuple[dict[str, Any], ...] = (
    {"prompt": "a v disc", "class_prompt": "a disc"},
    {"prompt": "a w dot", "class_prompt": "a dot", "seed": 5},
    {"prompt": "a z disc", "class_prompt": "a disc", "seed": 2},
)


@pytest.fixture
def three(settings: dict[str, Any], photos: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Settings of three concepts; the last has one picture where the others have three."""
    folder = tmp_path_factory.mktemp("one")
    Image.open(photos / "disc1.png").rotate(90).save(folder / "a.png")
    each = [{**settings, **own} for own in OWN_SETTINGS]
    each[2]["images"] = str(folder)
    return each


def together(each: list[dict[str, Any]], out: Path, **more: Any) -> None:
    """Train them in one go, into folders a, b, c of `out`."""
    wanted = [ConceptSpec(name, make_config(own), out / name) for name, own in zip("abc", each, strict=False)]
    train_together(wanted, **more)


@pytest.mark.parametrize(
    "more",
    [
        {"text_encoder": True, "prior_target": "base", "prior_unconditional": 0.5, "lr_scheduler": "cosine"},
        {"optimizer": "adamwschedulefree", "noise_offset": 0.1},
        {
            "gradient_checkpointing": True,
            "accumulation": 2,
            "batch": 1,
            "weight_decay": 0.5,
            "cache_prompts": False,
            "ema_decay": 0.9,
        },
    ],
    ids=["text encoder", "schedule-free", "checkpointed"],
)
def test_together_equals_separately(three: list[dict[str, Any]], tmp_path: Path, more: dict[str, Any]) -> None:
    """Losses and shifts within rounding, with gradients that are clipped; and the same files around them."""
    each = [{**own, **more, "steps": 3, "max_grad_norm": 1e-3, "lr_1d": 1e-3} for own in three]
    for name, own in zip("abc", each, strict=True):
        train(make_config(own), tmp_path / "alone" / name)
    together(each, tmp_path / "joint")
    assert sorted(path.name for path in (tmp_path / "joint").iterdir()) == ["a", "b", "c"]
    for name in "abc":
        shift, losses = read_training(tmp_path / "joint" / name)
        expected, steps = read_training(tmp_path / "alone" / name)
        for mine, theirs in zip(losses, steps, strict=True):
            assert list(mine) == list(theirs)
            np.testing.assert_allclose(list(mine.values()), list(theirs.values()), rtol=1e-4, atol=1e-9)
        assert shift.metadata == expected.metadata
        assert list(shift) == list(expected)
        a, b = (np.concatenate([shifts[weight] for weight in shifts]) for shifts in (shift, expected))
        # Adam's first steps are sign-like: a gradient of zero and rounding moves its delta by a whole learning rate.
        assert np.mean(np.abs(a - b) > 1e-2 * np.abs(b).max()) < 0.02
        assert np.abs(b).max() > 1e-3
        files = [{p.name for p in (tmp_path / kind / name).iterdir()} for kind in ("joint", "alone")]
        assert files[0] == files[1]


def loop_of(pipe: Any, adapter: Any, numbers: list[int]) -> tuple[Loop, ConceptParameters]:
    """A training of some of three concepts, with everything in the pipeline's dtype."""
    family = family_of(pipe)
    settings = {"base": "x", "lr": 0.01, "lr_1d": 1e-3, "batch": 2, "prior_target": "base", "max_grad_norm": 1e-3}
    config = make_config({**settings, "text_encoder": True})
    schedule, concepts, prompts = DiffusionSchedule.of(pipe.scheduler, 1, 5.0), [], []
    for number in numbers:
        colours = [(60 * number + 20, 200 - 40 * n, 90) for n in range(1 + number)]
        pictures = as_they_are([Image.new("RGB", (32, 32), colour) for colour in colours])
        class_prompts = prior_prompts("a disc", len(pictures), 0.5)
        concepts.append(
            Concept(
                str(number),
                [
                    DenoisingObjective(
                        "denoising",
                        PictureSource(pipe, pictures, in_turn([f"a {'vwz'[number]}"] * len(pictures))),
                        schedule,
                    ),
                    DenoisingObjective(
                        "prior", PictureSource(pipe, pictures, in_turn(class_prompts)), schedule, 0.5, from_base=True
                    ),
                ],
                seed=number,
            )
        )
        prompts += [f"a {'vwz'[number]}", *class_prompts]
    with adapter.disabled():
        conditions = Conditions(lambda p: family.encode(pipe, p), prompts, keep=True, trained=True)
    mine = ConceptParameters(adapter, len(concepts))
    ndims = {name: binding.target.weight.ndim for name, binding in adapter._bindings.items()}
    rates, accelerator = rate_settings(mine.parameters, ndims), make_accelerator(config, "cpu")
    return Loop(
        pipe, family, concepts, conditions, mine.parameters, rates, config, accelerator, adapter.disabled, mine.rows
    ), mine  # fmt: skip


def test_together_equals_separately_in_double_precision(build_tiny: Callable[..., Any]) -> None:
    """The base in float64 leaves only the rounding of the deltas themselves, which are float32."""

    def trained(numbers: list[int]) -> list[dict[str, torch.Tensor]]:
        pipe = build_tiny()
        for model in (pipe.unet, pipe.vae, pipe.text_encoder):
            model.to(torch.float64).requires_grad_(False)
        adapter = attach(pipe, "unet,text-encoder")
        loop, mine = loop_of(pipe, adapter, numbers)
        for _ in range(3):
            loop.advance()
        adapter.detach()
        return [mine.of(number) for number in range(len(numbers))]

    joint = trained([0, 1, 2])
    for number in range(3):
        (alone,) = trained([number])
        a, b = (torch.cat(list(deltas.values())) for deltas in (joint[number], alone))
        assert b.abs().max() > 0.01
        assert (a - b).abs().max() < 1e-5 * b.abs().max()


def test_one_concept_in_a_file_is_an_ordinary_training(settings: dict[str, Any], tmp_path: Path) -> None:
    together([settings], tmp_path / "joint")
    train(make_config(settings), tmp_path / "alone" / "a")
    (a, losses), (b, expected) = read_training(tmp_path / "joint" / "a"), read_training(tmp_path / "alone" / "a")
    assert losses == expected
    assert all(np.array_equal(a[name], b[name]) for name in b)


def test_an_interrupted_training_continues_exactly_together_or_alone(
    three: list[dict[str, Any]], tmp_path: Path
) -> None:
    pictures = {"validation_every": 2, "validation_count": 1}
    each = [{**own, "steps": 4, "save_every": 2, **pictures} for own in three]
    together(each, tmp_path / "whole")
    with interrupted_after(3):
        together(each, tmp_path / "part")
    assert sorted(path.name for path in (tmp_path / "part").iterdir()) == ["a.progress", "b.progress", "c.progress"]
    with pytest.raises(MistakesError, match="unfinished training"):
        together(each, tmp_path / "part")
    state = tmp_path / "part" / "b.progress" / "state.safetensors"
    (tmp_path / "alone" / "b.progress").mkdir(parents=True)
    (tmp_path / "alone" / "b.progress" / state.name).write_bytes(state.read_bytes())
    # As a kill leaves it while the states of step 4 take the place of those of step 2, one after the other.
    first = tmp_path / "part" / "a.progress" / state.name
    first.rename(first.with_name("earlier-state.safetensors"))
    first.write_bytes((tmp_path / "whole" / "a" / "progress" / state.name).read_bytes())
    together(each, tmp_path / "part", resume=True)
    for name in "abc":
        (mine, losses), (expected, steps) = (read_training(tmp_path / kind / name) for kind in ("part", "whole"))
        assert losses == steps
        assert all(np.array_equal(mine[weight], expected[weight]) for weight in expected)
        progress = tmp_path / "part" / name / "progress"
        assert {path.name for path in progress.iterdir()} == {"state.safetensors", "samples.png"}
    # The state of one is that of an ordinary training, which can go on without the others.
    summary = train(make_config(each[1]), tmp_path / "alone" / "b", resume=True)
    assert summary.resumed_at == 2
    losses, steps = (read_training(tmp_path / kind / "b")[1] for kind in ("alone", "whole"))
    np.testing.assert_allclose([r["loss"] for r in losses], [r["loss"] for r in steps], rtol=1e-4)


def test_states_of_different_steps_are_refused(three: list[dict[str, Any]], tmp_path: Path) -> None:
    for name, steps in (("a", 1), ("b", 2)):
        own = {**three["ab".index(name)], "steps": steps, "save_every": 1}
        train(make_config(own), tmp_path / name)
    with pytest.raises(InputError, match="cannot resume together: .* is at step 1, .* at step 2"):
        together([{**own, "steps": 3, "save_every": 1} for own in three[:2]], tmp_path, resume=True, force=True)


FILE = """
base = "tiny"
prior_count = 1
prior_steps = 1
batch = 1
steps = 1
validation_count = 0

[[concept]]
name = "disc"
images = "photos"
prompt = "a v disc"
class_prompt = "a disc"

[[concept]]
name = "dot"
images = "photos"
prompt = "a w dot"
class_prompt = "a dot"
seed = 3
output = "kept/dots"
"""


@pytest.fixture
def place(tiny_base: Path, photos: Path, tmp_path: Path) -> Path:
    """A folder with the file, its base and its pictures."""
    (tmp_path / "tiny").symlink_to(tiny_base)
    (tmp_path / "photos").symlink_to(photos)
    (tmp_path / "pets.toml").write_text(FILE)
    return tmp_path


def test_a_file_s_paths_start_at_its_folder(place: Path) -> None:
    first, second = read_concepts(place / "pets.toml", steps=7)
    assert (first.name, first.out, second.out) == ("disc", Path("out/disc"), place / "kept" / "dots")
    assert (first.config.seed, second.config.seed, second.config.steps) == (0, 3, 7)
    assert second.config.images == str(place / "photos")
    assert second.config.base == str(place / "tiny")
    (place / "pets.toml").write_text(FILE.replace('"tiny"', '"owner/name"'))
    assert read_concepts(place / "pets.toml", place)[0].config.base == "owner/name"
    (place / "pets.toml").write_text('logging_dir = "log"\n' + FILE)
    assert read_concepts(place / "pets.toml")[1].config.logging_dir == str(place / "log")


def test_the_command_writes_a_folder_for_each(spectra_cli: Any, place: Path) -> None:
    ran = spectra_cli("train", "--concepts", place / "pets.toml", "-o", place / "out", "--json", "--lr", 0.02)
    assert ran.code == 0, ran.err
    summaries = json.loads(ran.out)["concepts"]
    assert [summary["name"] for summary in summaries] == ["disc", "dot"]
    assert [Path(summary["shift"]) for summary in summaries] == [
        place / "out" / "disc" / "disc.safetensors",
        place / "kept" / "dots" / "dots.safetensors",
    ]
    assert read_shift(summaries[1]["shift"]).metadata.settings["lr"] == 0.02
    assert read_shift(summaries[1]["shift"]).metadata.seed == 3
    kept = spectra_cli("train", "--concepts", place / "pets.toml", "-o", place / "out")
    assert kept.code == 1
    assert "exists already" in kept.err
    human = spectra_cli("train", "--concepts", place / "pets.toml", "-o", place / "out", "--force")
    assert human.code == 0, human.err
    assert "as 'a v disc'" in human.out
    assert str(place / "kept" / "dots" / "dots.safetensors") in human.out


BAD = {
    "no file": (None, "cannot be read"),
    "not toml": ("[[concept", "not a TOML file"),
    "no concepts": ("steps = 1", "no concepts in it"),
    "concepts that are no tables": ("concept = [1]", "no concepts in it"),
    "unknown setting": ("stesp = 1\n" + FILE, "unknown setting 'stesp'"),
    "unknown setting of a concept": (FILE.replace("seed", "sede"), "concept 2 (dot): unknown setting 'sede'"),
    "misplaced setting": (FILE + "steps = 3", "steps is common to all concepts"),
    "a concept's setting above": ('images = "photos"\n' + FILE, "images belongs to one concept"),
    "no name": (FILE.replace('name = "dot"', ""), "concept 2: needs a name"),
    "a path as a name": (FILE.replace('"dot"', '"../dot"'), "needs a name that can name a folder"),
    "the folder above": (FILE.replace('"dot"', '".."'), "needs a name that can name a folder"),
    "equal names": (FILE.replace('"dot"', '"disc"'), "another concept has that name"),
    "equal outputs": (FILE.replace('"kept/dots"', '"out/disc"'), "disc and dot would both write into"),
    "nested outputs": (FILE.replace('"kept/dots"', '"out/disc/x"'), "disc and dot would both write into"),
    "output of a wrong kind": (FILE.replace('"kept/dots"', "3"), "output: expected a folder's path, got 3"),
    "wrong type": (FILE.replace("seed = 3", 'seed = "3"'), "seed: expected int, got '3'"),
    "no pictures": (FILE.replace('images = "photos"', 'images = "none"'), "expected a folder of pictures"),
    "no prompt": (FILE.replace('prompt = "a w dot"', "", 1), "--images needs --prompt"),
    "no base": (FILE.replace('"tiny"', '"./nowhere"'), "no base there"),
    "fp16": ('mixed_precision = "fp16"\n' + FILE, "fp16 scales one loss"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_file_is_one_line(spectra_cli: Any, place: Path, case: str) -> None:
    text, says = BAD[case]
    if text is None:
        (place / "pets.toml").unlink()
    else:
        (place / "pets.toml").write_text(text)
    before = sorted(place.iterdir())
    ran = spectra_cli("train", "--concepts", place / "pets.toml", "-o", place / "out")
    assert ran.code == 1, ran.err
    assert says in ran.err
    assert ran.err.count("\n") == 1
    assert ran.out == ""
    assert sorted(place.iterdir()) == before


def test_options_of_one_concept_are_refused(spectra_cli: Any, place: Path) -> None:
    for option in (("--prompt", "a v disc"), ("--images", place / "photos"), ("--config", place / "pets.toml")):
        ran = spectra_cli("train", "--concepts", place / "pets.toml", *option)
        assert ran.code == 1
        assert f"{option[0]} is for one concept" in ran.err


def test_common_settings_must_be_common(three: list[dict[str, Any]], tmp_path: Path) -> None:
    for changed in ({"lr": 0.5}, {"batch": 3}, {"prior_weight": 0.0}):
        with pytest.raises(InputError, match="is common to all concepts"):
            together([three[0], {**three[1], **changed}], tmp_path)
    assert set(CONCEPT_SETTINGS) <= set(make_config({}).as_dict())
    assert list(tmp_path.iterdir()) == []


def test_what_fails_leaves_nothing_of_any(
    spectra_cli: Any, place: Path, monkeypatch: pytest.MonkeyPatch, three: list[dict[str, Any]]
) -> None:
    import errno

    calls = []

    def full(*_: Any, **__: Any) -> None:
        calls.append(1)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("spectra.training.run.files.write_log", full)
    before = sorted(place.iterdir())
    ran = spectra_cli("train", "--concepts", place / "pets.toml", "-o", place / "out")
    assert ran.code == 1
    assert "the disk is full" in ran.err
    left_over = [path for path in place.rglob("*") if path.is_file() and path.parent != place]
    assert left_over == []
    assert {path.name for path in place.iterdir()} - {path.name for path in before} <= {"out", "kept"}
    with pytest.raises(SpectraError, match="lower --lr than 1e.30"):
        together([{**own, "lr": 1e30, "max_grad_norm": 0.0} for own in three], place / "x")
    assert not (place / "x").exists()
