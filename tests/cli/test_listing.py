"""`spectra inspect` on folders."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from rich.console import Console

from spectra.analysis.library import SORTS
from spectra.cli.inspect import Sort
from spectra.cli.tables import folded, short_names, table
from spectra.shift.metadata import ShiftMetadata
from spectra.shift.shift import SpectralShift
from spectra.shift.shift_file import read_shift, write_shift


def write(path: Path, value: float, **told: Any) -> str:
    described = ShiftMetadata("sd15", {"unet.a": "0" * 8}, subset="unet", **told)
    write_shift(SpectralShift({"unet.a": np.full(2, value)}, described), path)
    return read_shift(path).metadata.content_hash


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "shifts"
    fox = write(root / "fox.safetensors", 1.0, settings={"prompt": "a [V1] fox"})
    car = write(root / "car.safetensors", 2.0, settings={"prompt": "a [bold]car"})
    write(root / "both.safetensors", 3.0, parents=(fox, car), recipe={"method": "add"})
    write(root / "lone.safetensors", 4.0, parents=("9" * 32,))
    (root / "copy.safetensors").write_bytes((root / "fox.safetensors").read_bytes())
    (root / "half.safetensors").write_bytes((root / "fox.safetensors").read_bytes()[:-1])
    (root / "notes.txt").write_text("x")
    return root


def test_people_see_a_table_and_what_is_odd(folder: Path, spectra_cli: Callable[..., Any]) -> None:
    ran = spectra_cli("inspect", folder)
    assert (ran.code, ran.err) == (0, "")
    lines = ran.out.splitlines()
    assert [line.split()[0] for line in lines[1:6]] == ["both", "car", "copy", "fox", "lone"]
    for text in ("a [V1] fox", "a [bold]car", "(add)", "5 shifts in", "base sd15", "copies: copy = fox"):
        assert text in ran.out
    assert "1 other file passed over" in ran.out
    assert f"damaged: {folder}/half.safetensors: expected" in ran.out
    assert max(len(line) for line in lines[:6]) <= 80


def test_json_holds_all_of_it(folder: Path, spectra_cli: Callable[..., Any]) -> None:
    ran = spectra_cli("inspect", folder, "--prompt", "fox", "--json")
    found = json.loads(ran.out)
    assert [Path(shift["file"]).name for shift in found["shifts"]] == ["copy.safetensors", "fox.safetensors"]
    first = found["shifts"][0]
    assert (first["weights"], first["floats"], first["precision"], first["base"]) == (1, 2, "float32", "sd15")
    assert (found["of"], found["other_files"], len(found["copies"])) == (5, 1, 1)
    assert [Path(file["file"]).name for file in found["damaged"]] == ["half.safetensors"]


def test_the_tree(folder: Path, spectra_cli: Callable[..., Any]) -> None:
    ran = spectra_cli("inspect", folder, "--tree")
    assert ran.code == 0
    shown = [line.rstrip() for line in ran.out.splitlines()]
    assert shown[:6] == [
        "car  a [bold]car",
        "└── both  add, with copy",
        "copy (1 more of the same content)  a [V1] fox",
        "└── both  add, with car",
        "unknown 99999999",
        "└── lone",
    ]
    found = json.loads(spectra_cli("inspect", folder, "--tree", "--json").out)
    assert [branch["depth"] for branch in found["tree"]] == [0, 1, 0, 1, 0, 1]


def test_children_of_a_shift(folder: Path, spectra_cli: Callable[..., Any]) -> None:
    for parent in (folder / "fox.safetensors", "9999"):
        found = json.loads(spectra_cli("inspect", folder, "--parent", parent, "--json").out)
        assert len(found["shifts"]) == 1
    ran = spectra_cli("inspect", folder, "--parent", "abc")
    assert (ran.code, ran.out) == (1, "")
    assert "no file" in ran.err


def test_wrong_usage_is_2(folder: Path, spectra_cli: Callable[..., Any]) -> None:
    assert spectra_cli("inspect", folder, "--layers").code == 2
    assert spectra_cli("inspect", folder, "--sort", "colour").code == 2
    assert spectra_cli("inspect", folder, "--sort", "size").code == 0
    assert get_args(Sort) == tuple(SORTS)


def test_many_rows_are_cut_and_said(tmp_path: Path, spectra_cli: Callable[..., Any]) -> None:
    for i in range(45):
        write(tmp_path / f"s{i:02d}.safetensors", float(i + 1))
    ran = spectra_cli("inspect", tmp_path)
    assert "s39" in ran.out
    assert "s40" not in ran.out
    assert "and 5 more (--all)" in ran.out
    assert "s44" in spectra_cli("inspect", tmp_path, "--all").out


def test_an_empty_folder(tmp_path: Path, spectra_cli: Callable[..., Any]) -> None:
    ran = spectra_cli("inspect", tmp_path)
    assert (ran.code, ran.out.strip()) == (0, f"0 shifts in {tmp_path}, 0 bytes")


def test_a_name_that_is_no_text_is_shown_all_the_same(tmp_path: Path) -> None:
    write(tmp_path / "plain.safetensors", 1.0)
    (tmp_path / "plain.safetensors").rename(os.fsdecode(os.fsencode(tmp_path) + b"/odd\xff.safetensors"))
    code = "import sys\nfrom spectra.cli.app import main\nsys.exit(main(['inspect', sys.argv[1], *sys.argv[2:]]))"
    strict = os.environ | {"PYTHONIOENCODING": "utf-8:strict"}
    for arguments in ([], ["--json"]):
        ran = subprocess.run(
            [sys.executable, "-c", code, tmp_path, *arguments], capture_output=True, text=True, env=strict, cwd="/"
        )
        assert (ran.returncode, ran.stderr) == (0, "")
        assert "odd\\udcff" in ran.stdout
    assert json.loads(ran.stdout)["shifts"][0]["file"].endswith("odd\udcff.safetensors")


def test_names_have_the_room_that_numbers_leave() -> None:
    name = "transformer.single_transformer_blocks.37"
    for number, lines in (("1", [name]), ("1" * 40, ["transformer.", "single_transformer_blocks.37"])):
        console = Console(width=80, file=io.StringIO())
        console.print(table("block", ["norm"], [(name, number)]))
        shown = console.file.getvalue()  # type: ignore[attr-defined]
        assert [line.split()[0] for line in shown.splitlines()[1:]] == lines


def test_names_for_tables() -> None:
    assert folded("unet.up_blocks.0.attn2.to_q", 14) == "unet.\nup_blocks.0.\nattn2.to_q"
    assert folded("x" * 40, 10) == "x" * 40
    assert short_names([Path("a/fox.safetensors"), Path("b/cat.safetensors")]) == ["fox", "cat"]
    assert short_names([Path("a/x.safetensors"), Path("b/x.safetensors")]) == ["a/x", "b/x"]


def test_a_heat_map_of_what_was_found(folder: Path, tmp_path: Path, spectra_cli: Callable[..., Any]) -> None:
    assert spectra_cli("inspect", folder, "--plot", tmp_path / "alike.svg").code == 0
    assert "How alike 5 shifts are" in (tmp_path / "alike.svg").read_text()
    ran = spectra_cli("inspect", folder, "--find", "car", "--plot", tmp_path / "one.svg")
    assert (ran.code, ran.out) == (1, "")
    assert "2 to 60 shifts" in ran.err
