"""`spectra merge`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dense_terms
import mixed_shifts
import numpy as np
import pytest
from random_shifts import make

from spectra.combine.merging import METHODS
from spectra.shift.shift_file import read_shift, write_shift


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / f"{name}.safetensors" for name in ("dog", "style")]
    for seed, path in enumerate(paths):
        write_shift(make(seed), path)
    return paths


def test_the_default_is_the_sum_that_generate_would_draw(files: list[Path], spectra_cli: Callable[..., Any]) -> None:
    out = files[0].with_name("both.safetensors")
    ran = spectra_cli("merge", f"{files[0]}:0.7", f"{files[1]}:0.3", "-o", out, "--json")
    assert (ran.code, ran.err) == (0, "")
    found = json.loads(ran.out)
    assert (found["method"], found["output"], found["bytes"]) == ("add", str(out), out.stat().st_size)
    assert [(each["scale"], each["weight"]) for each in found["shifts"]] == [(0.7, 1.0), (0.3, 1.0)]
    dog, style, both = (read_shift(path) for path in (*files, out))
    assert found["content_hash"] == both.metadata.content_hash
    for name in both:
        np.testing.assert_array_equal(both[name], (0.7 * dog[name].astype(float) + 0.3 * style[name].astype(float)).astype(np.float32))  # fmt: skip  # noqa: E501
    assert both.metadata.parents == (dog.metadata.content_hash, style.metadata.content_hash)
    assert found["total"]["clipped"] is None


def test_people_see_shifts_patterns_blocks_and_clipping(files: list[Path], spectra_cli: Callable[..., Any]) -> None:
    out = files[0].with_name("both.safetensors")
    ran = spectra_cli("merge", *files, "--alpha", "0.25", "--block-weights", "unet.up_blocks.1=1", "-o", out)
    assert (ran.code, ran.err) == (0, "")
    told = " ".join(ran.out.split())
    for text in ("interpolate of 2 shifts", "dog 1 0.25", "unet.up_blocks.1 1 1 weights 33", "total", "decompose BASE"):
        assert text in told
    assert max(map(len, ran.out.splitlines()[:-2])) <= 80


def test_terms_and_words_are_shown(tmp_path: Path, spectra_cli: Callable[..., Any]) -> None:
    for seed, name in enumerate(("dog", "cat")):
        write_shift(dense_terms.make(seed, 2, ids=(3 + 2 * seed, 4)), tmp_path / name)
    arguments = ("merge", tmp_path / "dog", tmp_path / "cat", "--outer-rank", 2, "-o", tmp_path / "out")
    ran = spectra_cli(*arguments)
    assert (ran.code, ran.err) == (0, "")
    told = " ".join(ran.out.split())
    assert "add, outer rank 2 of 2 shifts" in told
    assert "the special words of dog, cat meet in text_encoder.tokens: token 4 (cosine" in told
    assert "outer terms terms ||Delta W|| cosine energy error" in told
    assert max(map(len, ran.out.splitlines()[:-2])) <= 80
    found = json.loads(spectra_cli(*arguments, "--force", "--json").out)
    total = found["outer_terms"]["total"]
    assert (found["outer_rank"], total["weights"], total["terms"]) == (2, 2, 4)
    assert 0 < total["error"] < 1
    assert [each["token"] for each in found["shared_tokens"]] == [4]
    assert all(each.rank == 2 for each in read_shift(tmp_path / "out").outer.values())


def test_a_dry_run_writes_nothing(files: list[Path], spectra_cli: Callable[..., Any]) -> None:
    before = sorted(files[0].parent.iterdir())
    ran = spectra_cli("merge", *files, "--method", "ties", "--density", "0.3", "--dry-run")
    assert ran.code == 0
    assert "nothing was written" in ran.out
    assert sorted(files[0].parent.iterdir()) == before


def test_recipes_are_saved_and_replayed(files: list[Path], spectra_cli: Callable[..., Any]) -> None:
    folder = files[0].parent
    out, again, toml = folder / "out", folder / "again", folder / "recipes.toml"
    arguments = ("--method", "dare", "--seed", 3, "--weights", "0.5,1", "--save-recipe", toml)
    assert spectra_cli("merge", *files, *arguments, "-o", out).code == 0
    assert spectra_cli("merge", "--recipe", toml, "-o", again).code == 0
    assert again.read_bytes() == out.read_bytes()
    assert spectra_cli("merge", "--recipe", out, *files, "-o", again, "--force").code == 0
    assert again.read_bytes() == out.read_bytes()
    ran = spectra_cli("merge", "--recipe", toml, "--alpha", 0.5, "-o", again, "--force")
    assert (ran.code, ran.out) == (1, "")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["dog", "style"], "expected -o FILE"),
        (["-o", "x"], "expected the shifts to merge"),
        (["dog", "absent", "-o", "x"], "no such file; expected FILE or FILE:SCALE"),
        (["dog", "style:much", "-o", "x"], "expected a number after the colon"),
        (["dog", "style", "-o", "dog"], "exists already"),
        (["dog", "style", "-o", "x", "--method", "mean"], "no merging method is called 'mean'; there are: interpolate"),
        (["dog", "style", "-o", "x", "--alpha", "1", "--weights", "1,2"], "either --alpha or --weights"),
        (["dog", "style", "-o", "x", "--method", "ties", "--alpha", "1"], "ties takes --weights"),
        (["dog", "style", "-o", "x", "--method", "slerp", "--weights", "1,2"], "slerp takes --alpha"),
        (["dog", "style", "-o", "x", "--weights", "1;2"], "expected numbers separated by commas, got '1;2'"),
        (["dog", "style", "-o", "x", "--block-weights", "unet"], "takes PATTERN=W"),
        (["dog", "style", "-o", "x", "--block-weights", "unet.mid_block=1"], "matches none of 5 weights"),
        (["dog", "style", "-o", "x", "--gamma", "0.1"], "add has no parameter 'gamma'"),
        (["dog", "style", "-o", "x", "--save-recipe", "r.txt"], "ends in .toml"),
        (["dog", "style", "-o", "x", "--alpha", "nan"], "expected finite weights"),
        (["dog", "style", "-o", "x", "--method", "ties", "--density", "nan"], "above 0, at most 1"),
        (["--recipe", "dog", "-o", "x"], "holds no recipe of a merge"),
    ],
)
def test_mistakes_are_one_line(
    arguments: list[str],
    said: str,
    files: list[Path],
    spectra_cli: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(files[0].parent)
    for file in files:
        file.rename(file.stem)
    ran = spectra_cli("merge", *arguments)
    assert (ran.code, ran.out, ran.err.count("\n")) == (1, "", 1)
    assert said in ran.err
    assert not Path("x").exists()


def test_a_precision_that_no_file_has_is_wrong_usage(files: list[Path], spectra_cli: Callable[..., Any]) -> None:
    ran = spectra_cli("merge", *files, "-o", files[0].with_name("x"), "--file-dtype", "int8")
    assert (ran.code, ran.out) == (2, "")
    assert "'int8' is not one of" in ran.err
    assert not files[0].with_name("x").exists()


def test_methods_are_listed(spectra_cli: Callable[..., Any]) -> None:
    ran = spectra_cli("merge", "--list")
    assert (ran.code, ran.err) == (0, "")
    assert max(map(len, ran.out.splitlines())) <= 80
    listed = json.loads(spectra_cli("merge", "--list", "--json").out)["methods"]
    assert [each["name"] for each in listed] == list(METHODS)
    assert all(each["name"] in ran.out for each in listed)


def test_many_files_are_not_all_listed(tmp_path: Path, spectra_cli: Callable[..., Any]) -> None:
    paths = [tmp_path / f"{seed}.safetensors" for seed in range(13)]
    for seed, path in enumerate(paths):
        write_shift(make(seed, "unet.conv_in"), path)
    ran = spectra_cli("merge", *paths, "-o", tmp_path / "all")
    assert "and 3 more" in ran.out
    assert spectra_cli("inspect", tmp_path / "all").out.count("and 5 more") == 3  # parents, weights, shifts
    assert "\n12 " not in ran.out


def test_an_average_of_a_training_s_steps_keeps_its_terms(spectra_cli: Callable[..., Any], tmp_path: Path) -> None:
    kept = tmp_path / "dog" / "progress" / "checkpoints"
    kept.mkdir(parents=True)
    shifts = {}
    for seed, step in enumerate((100, 200, 300)):
        shifts[step] = mixed_shifts.make(mixed_shifts.weights(), seed)
        write_shift(shifts[step], kept / f"step-{step:06d}.safetensors")
    ran = spectra_cli("merge", "--average", f"{tmp_path / 'dog'}@200..300", "-o", tmp_path / "mean", "--json")
    assert ran.code == 0, ran.err
    assert [shift["weight"] for shift in json.loads(ran.out)["shifts"]] == [0.5, 0.5]
    mean = read_shift(tmp_path / "mean")
    for name in mean:
        both = [shifts[step].get(name) for step in (200, 300)]
        expected = sum(delta / 2 for delta in both if delta is not None)
        np.testing.assert_allclose(mean[name], expected, atol=1e-6)
    most = max(terms.rank for step in (200, 300) for terms in shifts[step].outer.values())
    assert max(terms.rank for terms in mean.outer.values()) <= most
    wrong = spectra_cli("merge", "--average", f"{tmp_path / 'dog'}@100..300", "--alpha", ".5", "-o", tmp_path / "x")
    assert "--average is a mean, each shift of the same weight: leave --alpha out" in wrong.err


def test_files_of_one_precision_stay_in_it(spectra_cli: Callable[..., Any], tmp_path: Path) -> None:
    for seed, (name, precision) in enumerate((("a", "float16"), ("b", "float16"), ("c", "float32"))):
        write_shift(make(seed), tmp_path / name, dtype=precision)
    for other, precision in (("b", "float16"), ("c", "float32")):
        ran = spectra_cli("merge", tmp_path / "a", tmp_path / other, "-o", tmp_path / f"a{other}")
        assert read_shift(tmp_path / f"a{other}").precision == precision
        assert ran.out.splitlines()[-1].startswith("next: spectra generate ")
