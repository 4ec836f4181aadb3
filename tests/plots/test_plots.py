"""Pictures of shifts: what is in them is held here, how they look is for the eye."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure
from mixed_shifts import NumpyCache, make, weights
from PIL import Image

from spectra.analysis.diffing import by_weight, correlate, total
from spectra.analysis.weight_changes import Change, Changes, weight_changes
from spectra.errors import InputError, OutputError
from spectra.naming.blocks import KINDS
from spectra.plots import blocks, style
from spectra.plots.comparison import check_count, draw_correlation, draw_difference
from spectra.plots.shift import draw_shift, most_moved
from spectra.shift.metadata import ShiftMetadata
from spectra.shift.shift import SpectralShift

NAMES = (
    "text_encoder.encoder.layers.0.mlp.fc1",
    "unet.conv_in",
    "unet.down_blocks.0.resnets.0.norm1",
    "unet.up_blocks.1.attentions.0.transformer_blocks.0.attn2.to_q",
)


def made(seed: int = 0, size: int = 30) -> tuple[SpectralShift, dict[str, np.ndarray]]:
    rng = np.random.default_rng(seed)
    deltas = {name: rng.normal(size=size) for name in NAMES}
    sigmas = {name: np.sort(rng.random(size))[::-1] for name in NAMES if "norm" not in name}
    return SpectralShift(deltas, ShiftMetadata("b", dict.fromkeys(NAMES, "0" * 8))), sigmas


def changed(seed: int) -> Changes:
    return weight_changes([made(seed)[0]])[0][0]


@pytest.mark.parametrize("size", [1, 30, 700])
@pytest.mark.parametrize("known", [True, False])
def test_a_shift_is_drawn_with_its_energy_and_spectra(size: int, known: bool) -> None:
    shift, sigmas = made(size=size)
    (changes,), _ = weight_changes([shift])
    figure = draw_shift(changes, sigmas if known else {}, "title")
    bars, *panels = figure.axes
    squares = {name: np.square(delta).sum() for name, delta in shift.items()}
    lengths = [patch.get_width() for patch in bars.patches]
    assert sum(lengths) == pytest.approx(100)
    assert max(lengths) == pytest.approx(100 * max(squares.values()) / sum(squares.values()))
    assert [label.get_text() for label in bars.get_yticklabels()] == [
        "text_encoder: layers.0",
        "unet: the rest",
        "down_blocks.0",
        "up_blocks.1",
    ]
    titles = {panel.get_title(loc="left") for panel in panels}
    assert titles == {blocks.weight_label(name) for name in (sigmas if known else NAMES)}


def test_a_long_name_keeps_its_block_and_its_end() -> None:
    assert blocks.weight_label(NAMES[1]) == "unet.conv_in"
    assert blocks.weight_label(NAMES[3]) == "unet.up_blocks.1 … attn2.to_q"
    assert blocks.weight_label(f"{NAMES[3][:-5]}.to_out.0") == "unet.up_blocks.1 … attn2.to_out.0"


def test_the_weights_that_are_shown_move_most_for_their_size() -> None:
    moved = {"unet.a.attn2.x": np.array([2.0]), "unet.b.attn2.x": np.array([3.0]), "unet.ff.x": np.array([1.0])}
    sigmas = {"unet.a.attn2.x": np.array([1.0]), "unet.b.attn2.x": np.array([9.0]), "unet.ff.x": np.array([1.0])}
    assert most_moved(moved, sigmas) == ["unet.a.attn2.x", "unet.ff.x"]
    assert most_moved(moved, {}) == ["unet.b.attn2.x", "unet.ff.x"]
    assert most_moved(moved, sigmas, count=1) == ["unet.a.attn2.x"]
    assert most_moved(moved, {"unet.ff.x": np.zeros(1)}) == ["unet.ff.x"]


def test_neighbours_share_a_row_where_there_are_too_many() -> None:
    names = [f"transformer.blocks.{i}.attn.to_q" for i in range(57)] + ["transformer.x", "text_encoder.layers.0.mlp"]
    labels = list(dict.fromkeys(blocks.row_labels(names).values()))
    assert len(labels) <= 26
    assert labels[:3] == ["text_encoder: layers.0", "transformer: the rest", "blocks.0-2"]
    assert labels[-1] == "blocks.54-56"


def test_a_difference_shows_every_cosine() -> None:
    first, second = map(changed, (0, 1))
    every = by_weight(first, second)
    figure = draw_difference(every, total(every), "title")
    (dots,) = figure.axes[1].collections
    assert sorted(dots.get_offsets()[:, 0]) == pytest.approx(sorted(part.cosine for part in every))
    rows = np.round(dots.get_offsets()[:, 1])
    assert list(rows) == [0, 1, 2, 3]
    zero = {name: Change.zero(30) for name in NAMES}
    draw_difference(by_weight(zero, zero), total(by_weight(zero, zero)), "nothing")


def test_a_heat_map_shows_the_mean_cosines() -> None:
    found = correlate([changed(seed) for seed in range(3)])
    figure = draw_correlation(found, ["a", "b", "c"])
    assert figure.axes[0].images[0].get_clim() == (-1, 1)
    numbers = [text.get_text() for text in figure.axes[0].texts]
    assert len(numbers) == 6
    assert float(numbers[0]) == pytest.approx(found.mean_cosine[0, 1], abs=0.006)
    for count in (1, 61):
        with pytest.raises(InputError, match="2 to 60 shifts"):
            check_count(count)


def small() -> Figure:
    figure = style.new_figure(2, 1)
    figure.subplots().set_title(style.one_line("$5 狐"))
    return figure


@pytest.mark.parametrize("suffix", [".png", ".svg", ".PNG"])
def test_a_picture_is_written_whole_and_always_the_same(tmp_path: Path, suffix: str) -> None:
    """Warnings are errors here: a script that the font lacks is none to the user."""
    for name in ("a", "b"):
        style.write(small, tmp_path / f"{name}{suffix}")
    first, second = ((tmp_path / f"{name}{suffix}").read_bytes() for name in ("a", "b"))
    assert first == second
    if suffix == ".svg":
        assert "$5 狐" in "".join(ElementTree.fromstring(first).itertext())
    else:
        with Image.open(tmp_path / f"a{suffix}") as picture:
            assert picture.size == (300, 150)
    with pytest.raises(OutputError, match="--force"):
        style.write(small, tmp_path / f"a{suffix}")


def test_a_users_own_settings_play_no_part(tmp_path: Path) -> None:
    style.write(small, tmp_path / "a.png")
    with matplotlib.rc_context({"axes.facecolor": "red", "font.size": 30}):
        style.write(small, tmp_path / "b.png")
        assert matplotlib.rcParams["font.size"] == 30
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_another_suffix_is_refused(tmp_path: Path) -> None:
    for name in ("a.gif", "a", "a.pdf"):
        with pytest.raises(InputError, match=r"\.png or \.svg"):
            style.check(tmp_path / name)


def test_text_of_a_user_is_shown_as_it_is() -> None:
    assert style.one_line("a\nb   $x$") == r"a b \$x\$"
    assert style.one_line("x" * 200) == "x" * 89 + "…"
    assert style.short_name("folder/" * 9 + "fox") == "…" + ("folder/" * 9 + "fox")[-31:]


def test_every_kind_has_a_colour() -> None:
    assert {kind for kind, _ in KINDS} | {"other"} == style.KIND_COLOURS.keys()


@pytest.mark.parametrize("with_deltas", [True, False])
def test_a_shift_of_parts_shows_the_norm_of_each(with_deltas: bool) -> None:
    base = weights()
    shift = make(base, 3)
    if not with_deltas:
        zeros = {name: np.zeros_like(delta) for name, delta in shift.items()}
        shift = SpectralShift(zeros, shift.metadata, outer=shift.outer, words=shift.words)
    (changes,), _ = weight_changes([shift], cache=NumpyCache(base))  # type: ignore[arg-type]
    bars, dots, *panels = draw_shift(changes, {}, "title").axes
    assert sum(patch.get_width() for patch in bars.patches) == pytest.approx(100)
    drawn = [sorted(each.get_offsets()[:, 0]) for each in dots.collections]
    deltas = sorted(np.linalg.norm(delta) for delta in shift.values() if delta.any())
    outer = sorted(np.linalg.norm(terms.change()) for terms in shift.outer.values())
    word = [np.linalg.norm(each.vectors) for each in shift.words.values()]
    expected = [deltas, outer, word] if with_deltas else [outer, word]
    assert drawn == [pytest.approx(norms) for norms in expected]
    named = [text.get_text() for text in dots.get_legend().get_texts()]
    assert named == ["delta", "outer terms", "word"][-len(drawn) :]
    assert len(panels) == (4 if with_deltas else 0)  # one for each kind of layer that has a delta
