"""Whole trainings on a tiny base: what they learn, what they leave, and that they continue exactly."""

from __future__ import annotations

import json
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from trainings import flat, interrupted_after, read_training

from spectra.errors import InputError, OutputError, SpectraError
from spectra.shift.shift import SpectralShift
from spectra.shift.shift_file import read_shift
from spectra.shift.trajectory import find_shift, find_shifts
from spectra.training.config import make_config, read_config
from spectra.training.run import gradient_probe
from spectra.training.run.concepts import ConceptSpec
from spectra.training.run.gradient_probe import NAME_BYTES, WeightGradient, share_out
from spectra.training.run.interruption import InterruptBetweenSteps, Interrupted
from spectra.training.run.lr_schedule import lr_factor
from spectra.training.run.outputs import STATE, Outputs
from spectra.training.run.train import train, train_together


def run(settings: dict[str, Any], out: Path, **more: Any) -> tuple[SpectralShift, list[dict[str, float]]]:
    """The shift and the losses of a training."""
    train(make_config(settings), out, **more)
    return read_training(out)


def equal(a: SpectralShift, b: SpectralShift) -> bool:
    """The same deltas and terms, bit for bit."""
    return list(a) == list(b) and all(np.array_equal(a[name], b[name]) for name in a) and a.outer == b.outer


@pytest.mark.usefixtures("whole_outputs")
def test_a_training_learns_and_writes_its_folder(settings: dict[str, Any], tmp_path: Path) -> None:
    settings |= {"steps": 30, "lr": 0.02, "validation_count": 1}
    summary = train(make_config(settings), tmp_path / "disc")
    assert summary.loss_after < 0.93 * summary.loss_before
    assert {path.name for path in (tmp_path / "disc").iterdir()} == {
        "disc.safetensors", "disc.toml", "before-after.png", "loss.png", "log.jsonl", ".spectra.json",
    }  # fmt: skip
    assert [path.name for path in tmp_path.iterdir()] == ["disc"]
    shift = read_shift(tmp_path / "disc" / "disc.safetensors")
    assert shift.metadata.settings == make_config(settings).as_dict()
    assert shift.metadata.seed == 0
    assert shift.metadata.subset == "denoiser"
    assert summary.bytes == (tmp_path / "disc" / "disc.safetensors").stat().st_size
    assert summary.floats == shift.floats
    assert summary.base_bytes > summary.bytes
    assert read_config(tmp_path / "disc" / "disc.toml") == make_config(settings)
    with Image.open(tmp_path / "disc" / "before-after.png") as sheet:
        assert min(sheet.size) > 160
    json.dumps(summary.as_dict(), allow_nan=False)


def test_the_file_can_be_half_as_large(settings: dict[str, Any], tmp_path: Path) -> None:
    full, _ = run({**settings, "steps": 1}, tmp_path / "full")
    half, _ = run({**settings, "steps": 1, "file_dtype": "float16"}, tmp_path / "half")
    for name in full:
        np.testing.assert_array_equal(half[name], full[name].astype(np.float16).astype(np.float32))
    sizes = [(tmp_path / name / f"{name}.safetensors").stat().st_size for name in ("full", "half")]
    assert sizes[0] - sizes[1] >= 2 * full.floats - 100


def test_one_dimensional_weights_have_a_rate_of_their_own(settings: dict[str, Any], tmp_path: Path) -> None:
    shift, _ = run({**settings, "lr": 1e-3, "lr_1d": 0.0, "steps": 2}, tmp_path / "a")
    assert not any("norm" in name for name in shift)
    assert all(shift[name].any() for name in shift if name.endswith(("to_q", "conv1")))


@pytest.mark.parametrize("concepts", [1, 2])
def test_only_so_many_directions_may_move(settings: dict[str, Any], tmp_path: Path, concepts: int) -> None:
    config = make_config({**settings, "directions": "3"})
    train_together([ConceptSpec(str(n), replace(config, seed=n), tmp_path / str(n)) for n in range(concepts)])
    shift = read_shift(tmp_path / "0" / "0.safetensors")
    for name, delta in shift.items():
        moved = np.count_nonzero(delta)
        if shift.metadata.ndims[name] == 1:
            assert moved > 3, name
        else:
            assert np.count_nonzero(delta[3:]) == 0, name
            assert moved > 0, name


@pytest.mark.parametrize("concepts", [1, 2])
def test_outer_terms_learn(settings: dict[str, Any], tmp_path: Path, concepts: int) -> None:
    config = make_config({**settings, "directions": "0", "outer": "1", "lr_outer": 0.02, "lr_1d": 0.0, "steps": 30})
    parts = [ConceptSpec(str(n), replace(config, seed=n), tmp_path / str(n)) for n in range(concepts)]
    summaries = train_together(parts)
    assert all(each.loss_after < 0.97 * each.loss_before for each in summaries)
    shift = read_shift(tmp_path / "0" / "0.safetensors")
    assert not any(delta.any() for delta in shift.values())
    assert set(shift.outer) == {name for name, ndim in shift.metadata.ndims.items() if ndim > 1}
    assert all(terms.rank == 1 and terms.a.any() for terms in shift.outer.values())
    assert shift.floats == sum(terms.floats for terms in shift.outer.values())


def test_a_training_starts_from_a_shift_with_terms(settings: dict[str, Any], tmp_path: Path) -> None:
    settings = {**settings, "directions": "2", "outer": "1", "lr_1d": 0.0, "steps": 2}
    first, _ = run(settings, tmp_path / "first")
    again, _ = run(
        {**settings, "lr": 0.0, "lr_outer": 0.0, "init_shift": str(tmp_path / "first/first.safetensors")},
        tmp_path / "again",
    )
    assert equal(first, again)


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"accumulation": 2, "batch": 1, "text_encoder": True, "gradient_checkpointing": True, "lr_1d": 1e-3},
        {"lr_scheduler": "cosine"},
        {"directions": "3", "outer": "2", "text_encoder": True},
        {"ema_decay": 0.9},
        {"lr_warmup_steps": 3, "lr_scheduler": "linear", "noise_offset": 0.1, "timestep_sampling": "sigmoid"},
        {"optimizer": "adamw8bit", "directions": "0", "outer": "64"},
        {"optimizer": "prodigy", "lr_scheduler": "cosine"},
        {"optimizer": "adamwschedulefree", "lr_warmup_steps": 2},
    ],
    ids=[
        "plain",
        "accumulated",
        "cosine",
        "few directions",
        "average",
        "warm-up, offset, sigmoid",
        "8 bit",
        "prodigy",
        "schedule-free",
    ],
)
def test_an_interrupted_training_continues_exactly(
    settings: dict[str, Any], tmp_path: Path, more: dict[str, Any]
) -> None:
    settings = {**settings, **more, "steps": 5, "save_every": 2}
    whole = run(settings, tmp_path / "whole")
    out = tmp_path / "part"
    with interrupted_after(3):
        train(make_config(settings), out)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["part.progress", "whole"]
    with pytest.raises(OutputError, match="unfinished training; continue it with --resume"):
        train(make_config(settings), out)
    resumed = run(settings, out, resume=True)
    assert resumed[1] == whole[1]
    assert equal(resumed[0], whole[0])
    assert not (tmp_path / "part.progress").exists()


def test_a_finished_training_can_go_on(settings: dict[str, Any], tmp_path: Path) -> None:
    whole = run({**settings, "steps": 4}, tmp_path / "whole")
    run({**settings, "steps": 2, "save_every": 2}, tmp_path / "part")
    with pytest.raises(InputError, match="2 steps are done"):
        train(make_config({**settings, "steps": 2}), tmp_path / "part", resume=True, force=True)
    with pytest.raises(InputError, match=r"lr was 0\.01 .* and is 0\.02 now"):
        train(make_config({**settings, "lr": 0.02}), tmp_path / "part", resume=True, force=True)
    longer = run({**settings, "steps": 4, "save_every": 3}, tmp_path / "part", resume=True, force=True)
    assert longer[1] == whole[1]
    assert equal(longer[0], whole[0])
    # The rates of a falling schedule depend on where it ends.
    falling = {**settings, "lr_scheduler": "cosine", "steps": 2, "save_every": 2}
    run(falling, tmp_path / "falling")
    with pytest.raises(
        InputError, match="steps was 2 when the state was saved and is 4 now, and the cosine .* --init-shift"
    ):
        train(make_config({**falling, "steps": 4}), tmp_path / "falling", resume=True, force=True)


def test_rates_rise_over_the_warm_up_and_fall_as_the_schedule_says() -> None:
    def factors(**more: Any) -> list[float]:
        config = make_config({"steps": 10, **more})
        return [lr_factor(config, step) for step in range(10)]

    cosine = factors(lr_scheduler="cosine")
    assert cosine[0] == 1 and cosine[5] == pytest.approx(0.5) and 0 < cosine[9] < 0.03
    assert cosine == sorted(cosine, reverse=True)
    assert factors(lr_scheduler="constant") == [1.0] * 10
    assert factors(lr_scheduler="linear") == pytest.approx([1 - step / 10 for step in range(10)])
    warm = factors(lr_scheduler="linear", lr_warmup_steps=4)
    assert warm == pytest.approx([0.25, 0.5, 0.75, 1, 1, 5 / 6, 4 / 6, 0.5, 2 / 6, 1 / 6])
    assert factors(lr_scheduler="cosine", optimizer="adamwschedulefree", lr_warmup_steps=2) == [0.5] + [1.0] * 9


def test_what_is_written_can_be_the_average_of_the_steps(settings: dict[str, Any], tmp_path: Path) -> None:
    """The same steps with and without: the average lies behind the last step, and is the one that is written."""
    settings = {**settings, "steps": 4, "lr_1d": 0.0}
    last, losses = run(settings, tmp_path / "last")
    average, others = run({**settings, "ema_decay": 0.999}, tmp_path / "average")
    assert losses == others
    states = [run({**settings, "steps": n}, tmp_path / str(n))[0] for n in (1, 2, 3)] + [last]
    expected = np.zeros_like(flat(last))
    for step, state in enumerate(states, 1):
        expected = expected + (1 - step / (step + 9)) * (flat(state) - expected)
    np.testing.assert_allclose(flat(average), expected, atol=1e-7)
    assert not np.allclose(flat(average), flat(last), atol=1e-3)


def test_prodigy_finds_one_rate_for_all_but_those_of_zero(settings: dict[str, Any], tmp_path: Path) -> None:
    settings = {**settings, "optimizer": "prodigy", "directions": "4", "outer": "1", "lr_1d": 0.0, "steps": 8}
    shift, losses = run(settings, tmp_path / "a")
    assert losses[-1]["loss"] != losses[0]["loss"]
    assert all(delta.any() for delta in shift.values())
    other, _ = run({**settings, "lr": 7.0, "lr_outer": 3.0}, tmp_path / "b")
    assert equal(shift, other)
    frozen, _ = run({**settings, "lr": 0.0}, tmp_path / "c")
    assert not any(delta.any() for delta in frozen.values())


@pytest.mark.parametrize("optimizer", ["prodigy", "adamw8bit"])
def test_some_optimizers_would_not_keep_concepts_apart(
    settings: dict[str, Any], tmp_path: Path, optimizer: str
) -> None:
    config = make_config({**settings, "optimizer": optimizer})
    with pytest.raises(InputError, match=f"optimizer {optimizer} trains one concept at a time, got 2"):
        train_together([ConceptSpec(str(n), replace(config, seed=n), tmp_path / str(n)) for n in range(2)])


def test_cost_settings_change_no_result(settings: dict[str, Any], tmp_path: Path) -> None:
    """Accumulation, checkpointing and caching trade memory for time, and nothing else but rounding."""
    settings = {**settings, "steps": 2, "batch": 4}
    plain, losses = run(settings, tmp_path / "plain")
    for number, more in enumerate(
        (
            {"batch": 2, "accumulation": 2},
            {"gradient_checkpointing": True},
            {"cache_latents": False, "cache_prompts": False},
        )
    ):
        other, others = run({**settings, **more}, tmp_path / str(number))
        np.testing.assert_allclose([r["loss"] for r in others], [r["loss"] for r in losses], rtol=1e-4)
        difference = np.abs(flat(plain) - flat(other))
        # Adam's first steps are sign-like: a gradient of zero and rounding moves its delta by a whole learning rate.
        assert np.mean(difference > 1e-3 * settings["lr"]) < 0.02, more


def test_without_prior_preservation_no_class_prompt_is_needed(settings: dict[str, Any], tmp_path: Path) -> None:
    settings = {**settings, "class_prompt": "", "prior_weight": 0.0, "steps": 1}
    _, losses = run(settings, tmp_path / "a")
    assert set(losses[0]) == {"step", "loss", "denoising"}


def test_the_frozen_base_can_answer_for_the_class_pictures(settings: dict[str, Any], tmp_path: Path) -> None:
    settings = {**settings, "prior_target": "base", "prior_unconditional": 0.5, "text_encoder": True, "lr": 0.1}
    _, losses = run(settings, tmp_path / "out")
    assert losses[0]["prior"] < 1e-12, "the model is the base as yet"
    assert losses[-1]["prior"] > 1e-9


def test_own_class_pictures_take_the_place_of_the_base_s(
    settings: dict[str, Any], photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "spectra.training.loss.objectives.prior_pictures", lambda *_, **__: pytest.fail("drew class pictures")
    )
    settings = {**settings, "validation_every": 1}  # no validation pictures either
    _, losses = run({**settings, "class_images": str(photos), "steps": 1}, tmp_path / "a")
    assert losses[0]["prior"] > 0


def test_validation_pictures_are_rows_of_one_sheet(settings: dict[str, Any], tmp_path: Path) -> None:
    """Which goes on growing when the training is resumed."""
    settings = {**settings, "validation_every": 2, "validation_count": 1, "save_every": 2}
    heights = {}
    for steps in (3, 6):
        run({**settings, "steps": steps}, tmp_path / "a", resume=steps > 3, force=True)
        with Image.open(tmp_path / "a" / "progress" / "samples.png") as sheet:
            heights[steps] = sheet.height
            assert sheet.width > 2 * 160, "instance and class prompt are beside each other"
    assert heights[6] == 3 * heights[3]
    # A training that was killed between its samples and its state draws these again.
    run({**settings, "steps": 3}, tmp_path / "b")
    sheets = [tmp_path / name / "progress" / "samples.png" for name in "ab"]
    sheets[1].write_bytes(sheets[0].read_bytes())
    run({**settings, "steps": 6}, tmp_path / "b", resume=True, force=True)
    with Image.open(sheets[1]) as sheet:
        assert sheet.height == heights[6]


def test_shifts_on_the_way_are_kept_and_found_by_step(settings: dict[str, Any], tmp_path: Path) -> None:
    settings = {**settings, "steps": 5, "checkpoint_every": 2, "ema_decay": 0.5}
    run(settings, tmp_path / "a")
    short, _ = run({**settings, "steps": 4}, tmp_path / "b")
    files = find_shifts(f"{tmp_path / 'a'}@1..4")
    assert [file.name for file in files] == ["step-000002.safetensors", "step-000004.safetensors"]
    kept = read_shift(find_shift(f"{tmp_path / 'a'}@4"))
    assert kept.metadata.settings["steps"] == 4
    np.testing.assert_allclose(flat(kept), flat(short), atol=1e-4)
    assert find_shift(str(tmp_path / "a")) == tmp_path / "a" / "a.safetensors"
    with pytest.raises(InputError, match="no shift of step 3; there are 2, 4"):
        find_shift(f"{tmp_path / 'a'}@3")
    with pytest.raises(InputError, match="expected one shift, and these are 2; name one step, such as @1"):
        find_shift(f"{tmp_path / 'a'}@1..4")
    with pytest.raises(InputError, match="or FOLDER@STEP"):
        find_shift(str(tmp_path / "c"))


def test_ctrl_c_finishes_the_step_and_saves_what_there_is(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from spectra.cli.app import main
    from spectra.training.run.loop import Loop

    whole = run(settings, tmp_path / "whole")
    advance = Loop.advance

    def interrupted(self: Loop) -> float:
        if self.step == 1:
            signal.raise_signal(signal.SIGINT)
        return advance(self)

    (tmp_path / "a.toml").write_text(make_config(settings).to_toml())
    before = signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as patched:
        patched.setattr(Loop, "advance", interrupted)
        assert main(["train", "--config", str(tmp_path / "a.toml"), "-o", str(tmp_path / "a")]) == 130
    assert signal.getsignal(signal.SIGINT) is before
    told = capsys.readouterr().err
    assert "stopped after 2 of 4 steps; the state is saved" in told
    assert f"spectra train --resume -o {tmp_path / 'a'}" in told
    assert f"--shift {tmp_path / 'a'}@2" in told
    assert read_shift(find_shift(f"{tmp_path / 'a'}@2")).metadata.settings["steps"] == 2
    assert main(["train", "--resume", "-o", str(tmp_path / "a")]) == 0
    resumed = read_training(tmp_path / "a")
    assert resumed[1] == whole[1]
    assert equal(resumed[0], whole[0])


def test_a_second_ctrl_c_interrupts_at_once() -> None:
    told: list[str] = []
    with pytest.raises(KeyboardInterrupt) as caught, InterruptBetweenSteps(lambda: told.append("told")) as interrupt:
        signal.raise_signal(signal.SIGINT)
        assert interrupt.asked
        assert told == ["told"]
        signal.raise_signal(signal.SIGINT)
    assert not isinstance(caught.value, Interrupted)


def test_bf16_trains(settings: dict[str, Any], tmp_path: Path) -> None:
    _, plain = run({**settings, "steps": 1}, tmp_path / "a")
    _, half = run({**settings, "steps": 1, "mixed_precision": "bf16"}, tmp_path / "b")
    assert half[0]["loss"] == pytest.approx(plain[0]["loss"], rel=0.02)
    assert half[0]["loss"] != plain[0]["loss"]


def test_an_infinite_loss_stops_it_and_leaves_nothing(settings: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(SpectraError, match="train with a lower --lr"):
        train(make_config({**settings, "lr": 1e30, "max_grad_norm": 0.0}), tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


def test_nothing_given_learns_the_embedded_fox(
    spectra_cli: Any, tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a tiny base in the embedded one's place; the real one is trained by `make train`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("spectra.bases.pipeline.embedded_path", lambda: tiny_base)
    few = ("--steps", 1, "--prior-count", 1, "--prior-steps", 1, "--validation-steps", 1, "--validation-count", 1)
    few = ("--preset", "svdiff", *few)  # the tiny tokenizer has no [V1]
    ran = spectra_cli("train", *few)
    assert ran.code == 0, ran.err
    assert "a drawing of a [V1] fox" in ran.out
    assert "spectra generate --shift out/fox/fox.safetensors --prompt" in ran.out
    shift = read_shift(tmp_path / "out" / "fox" / "fox.safetensors")
    assert shift.metadata.base == "spectra-base"
    assert shift.metadata.settings["subject"] == "fox-noto-v1"
    again = spectra_cli("train", *few)
    assert again.code == 1
    assert "--force" in again.err


def test_resuming_needs_the_folder_alone(spectra_cli: Any, settings: dict[str, Any], tmp_path: Path) -> None:
    whole = run({**settings, "steps": 2}, tmp_path / "whole")
    run({**settings, "steps": 1, "save_every": 1}, tmp_path / "x")
    assert spectra_cli("train", "--resume").code == 1
    changed = spectra_cli("train", "--resume", "-o", tmp_path / "x", "--force", "--steps", 2, "--batch", 1)
    assert changed.code == 1
    assert "cannot resume: batch was 2" in changed.err
    ran = spectra_cli("train", "--resume", "-o", tmp_path / "x", "--force", "--steps", 2, "--json")
    assert ran.code == 0, ran.err
    assert json.loads(ran.out)["resumed_at"] == 1
    assert equal(read_shift(tmp_path / "x" / "x.safetensors"), whole[0])


def test_a_damaged_state_or_another_base_is_refused(
    settings: dict[str, Any], tiny_base: Path, tmp_path: Path, photos: Path
) -> None:
    import shutil

    base = tmp_path / "base"
    shutil.copytree(tiny_base, base)
    settings = {**settings, "base": str(base), "steps": 1, "save_every": 1}
    run(settings, tmp_path / "x")
    longer = make_config({**settings, "steps": 2})
    scheduler = base / "scheduler" / "scheduler_config.json"
    scheduler.write_text(scheduler.read_text().replace("0.012", "0.013"))
    with pytest.raises(InputError, match="the base is not the one the training began with"):
        train(longer, tmp_path / "x", resume=True, force=True)
    assert (tmp_path / "x" / "x.safetensors").is_file()
    state = tmp_path / "x" / "progress" / "state.safetensors"
    whole = state.read_bytes()
    for damaged in (whole[:-10], whole[:-10] + bytes([whole[-10] ^ 1]) + whole[-9:]):  # cut, and a bit of a number
        state.write_bytes(damaged)
        with pytest.raises(InputError, match="a damaged training state"):
            train(longer, tmp_path / "x", resume=True, force=True)


def test_plans_are_measured_first(settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same samples are drawn as without, and what was fastest is remembered."""
    monkeypatch.setattr("spectra.adapters.plan_tuning.default_root", lambda: tmp_path / "cache")
    settings = {**settings, "targets": "unet-ca", "steps": 2}
    plain, _ = run(settings, tmp_path / "plain")
    tuned, _ = run({**settings, "tune": True}, tmp_path / "tuned")
    (plans,) = json.loads((tmp_path / "cache" / "plans.json").read_text()).values()
    assert plans
    assert tuned.cosine(plain) > 0.99  # other plans round otherwise


def test_an_interrupted_training_says_how_to_go_on(
    spectra_cli: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "with blanks"

    def interrupted(*_: Any, **__: Any) -> None:
        Outputs(out).unfinished.mkdir()
        (Outputs(out).unfinished / STATE).touch()
        raise KeyboardInterrupt

    monkeypatch.setattr("spectra.training.run.train.train_together", interrupted)
    ran = spectra_cli("train", "-o", out)
    assert ran.code == 130
    assert f"continue with: spectra train --resume -o '{out}'" in ran.err


def test_bytes_are_shared_out_by_the_gradient(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gradient_probe, "SAMPLES", 4)
    settings = {**settings, "directions": "0", "lr_1d": 0.0, "steps": 1, "file_dtype": "float16"}
    shifts = {budget: run({**settings, "outer": budget}, tmp_path / budget) for budget in ("8kB", "16kB")}
    for budget, (shift, _) in shifts.items():
        size = (tmp_path / budget / f"{budget}.safetensors").stat().st_size
        assert 0.6 * int(budget[:-2]) * 1000 < size < int(budget[:-2]) * 1000 + 3000
        assert not any("norm" in name for name in shift)
    small, large = (set(shift.outer) for shift, _ in shifts.values())
    assert small < large
    assert {terms.rank for shift, _ in shifts.values() for terms in shift.outer.values()} <= {1, 2}
    with pytest.raises(InputError, match="expected bytes for one term at least"):
        train(make_config({**settings, "outer": "10B"}), tmp_path / "none")


def test_directions_are_chosen_by_the_gradient(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gradient_probe, "SAMPLES", 4)
    shift, _ = run({**settings, "directions": "2:gradient", "lr_1d": 0.0, "steps": 2}, tmp_path / "a")
    moved = {name: delta.nonzero()[0].tolist() for name, delta in shift.items()}
    assert all(len(numbers) == 2 for numbers in moved.values())
    assert any(numbers != [0, 1] for numbers in moved.values())
    assert all(max(numbers) < 8 for numbers in moved.values())


def test_weights_have_a_term_each_before_any_has_a_second() -> None:
    found = {
        "unet.strong": WeightGradient(None, [9.0, 8.0], 10),
        "unet.weak": WeightGradient(None, [1.0, 0.5], 10),
        "unet.huge": WeightGradient(None, [100.0, 90.0], 10_000),
    }
    one, more = 2 * 10 + len("unet.weak") + NAME_BYTES, 2 * 10
    assert share_out(found, one + 2) == {"unet.strong": 1}
    assert share_out(found, 2 * one + 2) == {"unet.strong": 1, "unet.weak": 1}
    assert share_out(found, 2 * one + 2 + more) == {"unet.strong": 2, "unet.weak": 1}
    assert share_out(found, 10**6) == dict.fromkeys(found, 2)
    with pytest.raises(InputError, match="expected bytes for one term at least, 119 here, got 100"):
        share_out(found, 100)


def test_trackers_get_numbers_and_pictures(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The packages are not installed here: stand-ins for accelerate's two trackers record what they are given."""
    import importlib.util

    from accelerate import tracking

    seen: dict[str, list[Any]] = {"tensorboard": [], "wandb": []}

    class Tracker(tracking.GeneralTracker):
        name = "tensorboard"
        requires_logging_directory = True
        tracker = None

        def __init__(self, run_name: str, **more: Any) -> None:
            super().__init__()
            seen[self.name].append((run_name, more))

        def start(self) -> None:
            pass

        def store_init_configuration(self, values: dict[str, Any]) -> None:
            assert all(isinstance(value, (str, int, float, bool)) for value in values.values())
            seen[self.name].append(values["steps"])

        def log(self, values: dict[str, float], step: int) -> None:
            seen[self.name].append((set(values), step))

        def log_images(self, values: dict[str, Any], step: int, **more: Any) -> None:
            assert values["validation"].ndim == 4
            seen[self.name].append((more, step))

        def finish(self) -> None:
            seen[self.name].append("finished")

    class Project(Tracker):
        name = "wandb"
        requires_logging_directory = False

    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: name in seen or real(name, *a))
    monkeypatch.setattr(tracking, "LOGGER_TYPE_TO_CLASS", {"tensorboard": Tracker, "wandb": Project})
    more = {"validation_count": 1, "validation_every": 2, "report_to": ["tensorboard", "wandb"]}
    run({**settings, "steps": 2, **more}, tmp_path / "x")
    names = {"loss", "denoising", "prior", "seconds", "lr"}
    assert seen["tensorboard"] == [
        ("x", {"logging_dir": str(tmp_path / "x.progress" / "logs")}), 2, (names, 1), (names, 2),
        ({"dataformats": "NHWC"}, 2), "finished",
    ]  # fmt: skip
    assert seen["wandb"] == [("spectra", {"name": "x"}), 2, (names, 1), (names, 2), ({}, 2), "finished"]
