"""LoRA files do in PEFT and diffusers what was predicted of them."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import peft
import plain_base
import pytest
import small_models
import tiny_base
import tiny_families
import tiny_sdxl
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

import spectra
from spectra.bases.pipeline import load_pipeline
from spectra.convert.lora.ranks import keep_directions, truncation_error
from spectra.convert.lora.reading import read_lora
from spectra.convert.lora.writing import LoraLayout, write_lora
from spectra.convert.module_names import is_embedding
from spectra.convert.shifted_base import StoredDtype, WeightChange
from spectra.errors import FormatError, InputError, MismatchError, OutputError
from spectra.families import targets
from spectra.shift.outer_terms import OuterTerms
from spectra.shift.shift import SpectralShift
from spectra.spectrum.spectrum import matrix

PARTS = "unet,text-encoder"


def weights(pipe: Any, pattern: str = PARTS) -> dict[str, Tensor]:
    return {target.name: target.weight.detach().double().clone() for target in targets(pipe, pattern)}


def shapes_of(weights: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(weight.shape) for name, weight in weights.items()}


def shifted(pipe: Any, shift: SpectralShift, pattern: str = PARTS) -> dict[str, Tensor]:
    spectra.load(pipe, shift, name="it")
    spectra.activate(pipe, {"it": 1.0})
    try:
        return weights(pipe, pattern)
    finally:
        spectra.unload(pipe)


def distance(a: dict[str, Tensor], b: dict[str, Tensor], names: Any) -> float:
    return math.sqrt(sum(float((a[name] - b[name]).norm()) ** 2 for name in names))


@pytest.fixture(scope="module", params=["sd", "sdxl"])
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp(request.param)
    (tiny_base if request.param == "sd" else tiny_sdxl).build().save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize(("layout", "size"), [("peft", {"rank": 3}), ("kohya", {"error": 0.3})], ids=["peft", "kohya"])
def test_diffusers_loads_what_was_predicted(
    saved: str, layout: LoraLayout, size: dict[str, Any], tmp_path: Path
) -> None:
    pipe = load_pipeline(saved)
    base = weights(pipe)
    shift = small_models.random_shift(pipe, PARTS, seed=1)
    ours = shifted(pipe, shift)
    file = tmp_path / "lora.safetensors"
    done = write_lora(shift, file, base=saved, layout=layout, **size)
    pipe.load_lora_weights(file)
    pipe.fuse_lora(components=[part for part in ("unet", "text_encoder", "text_encoder_2") if hasattr(pipe, part)])
    pipe.unload_lora_weights()
    theirs = weights(pipe)
    # diffusers says nothing of keys that it does not know: what counts is which weights are others now.
    assert {name for name in base if not torch.equal(theirs[name], base[name])} == set(done.ranks)
    if "rank" in size:
        assert len(done.ranks) + sum(each.weights for each in done.left_out) == len(shift)
    able = [
        name
        for name in shift
        if base[name].ndim > 1 and not is_embedding(name) and (layout == "peft" or "text_projection" not in name)
    ]
    error = distance(theirs, ours, able) / distance(ours, base, able)
    assert error == pytest.approx(done.error, rel=1e-4, abs=1e-6)
    if "error" in size:
        assert 0.29 < done.error <= 0.3


@pytest.mark.parametrize("layout", ["peft", "kohya"])
def test_directions_and_terms_are_a_lora_of_their_rank(saved: str, layout: LoraLayout, tmp_path: Path) -> None:
    """What PEFT's layers add to each weight, convolutions and text encoders too, is the definition in float64."""
    pipe = load_pipeline(saved)
    base = {target.name: target.weight.detach().clone() for target in targets(pipe, PARTS)}
    tables = [name for name in base if name.endswith("token_embedding")]
    shift = plain_base.mixed_shift(base, directions=3, terms=2, words=tables)
    exact = {name: matrix(weight) for name, weight in plain_base.shifted(base, shift).items()}
    file = tmp_path / "lora.safetensors"
    done = write_lora(shift, file, base=saved, layout=layout)
    assert done.error == 0
    able = {name for name in base if base[name].ndim > 1 and not is_embedding(name)}
    able -= {name for name in base if layout == "kohya" and name.endswith("text_projection")}
    # A weight of four rows has no more than four dimensions for them.
    assert done.ranks == {name: min(3 + 2, *matrix(base[name]).shape) for name in able}
    assert {each.why.split(",")[0] for each in done.left_out} >= {"norms", "embeddings"}
    named = {target.name: target.weight for target in targets(pipe, PARTS)}
    pipe.load_lora_weights(file, adapter_name="it")
    parts = [getattr(pipe, part) for part in ("unet", "text_encoder", "text_encoder_2") if hasattr(pipe, part)]
    layers = [each for part in parts for each in part.modules() if isinstance(each, peft.tuners.lora.LoraLayer)]
    added = {id(each.get_base_layer().weight): each.get_delta_weight("it").detach().double() for each in layers}
    assert {name for name, weight in named.items() if id(weight) in added} == able
    for name in able:
        wanted = exact[name] - matrix(base[name].double())
        assert float((matrix(added[id(named[name])]) - wanted).norm()) < 1e-6 * float(wanted.norm()), name


@settings(max_examples=20)
@given(
    directions=st.sampled_from([0, 1, 3, 40]),
    terms=st.integers(0, 3),
    asked=st.sampled_from([{}, {"rank": 1}, {"rank": 2}, {"rank": 4}, {"error": 0.3}]),
    layout=st.sampled_from(["peft", "kohya"]),
    dtype=st.sampled_from(["float32", "float16", "bfloat16"]),
)
def test_a_smaller_rank_is_the_best_there_is(
    directions: int,
    terms: int,
    asked: dict[str, Any],
    layout: LoraLayout,
    dtype: StoredDtype,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Of diagonal and terms together; and its error is the one that was told."""
    folder = tmp_path_factory.mktemp("mixed")
    base = {name: each for name, each in plain_base.tensors().items() if each.ndim > 1}
    shift = plain_base.mixed_shift(base, directions, terms)
    file = folder / "lora.safetensors"
    if not (directions or terms):
        with pytest.raises(FormatError, match="nothing is written"):
            write_lora(shift, file, base=plain_base.write(folder, base), **asked)
        return
    if directions == 40 and not asked:
        with pytest.raises(InputError, match="give a rank or an error"):
            write_lora(shift, file, base=plain_base.write(folder, base))
        return
    done = write_lora(shift, file, base=plain_base.write(folder, base), layout=layout, dtype=dtype, **asked)
    found = read_lora(file, shapes_of(base))
    changes = {name: matrix(each - base[name].double()) for name, each in plain_base.shifted(base, shift).items()}
    total = math.sqrt(sum(float(change.norm()) ** 2 for change in changes.values()))
    missed = {n: float(((found[n].double() if n in found else 0) - change).norm()) for n, change in changes.items()}
    error = math.hypot(*missed.values()) / total
    assert error == pytest.approx(math.hypot(done.error, done.rounding), rel=1e-3, abs=1e-6)
    if not asked:
        assert done.error == 0
    if dtype == "float32":
        assert done.rounding < 1e-7
        for name, change in changes.items():
            best = float(torch.linalg.svdvals(change)[done.ranks.get(name, 0) :].norm())
            assert missed[name] == pytest.approx(best, rel=1e-5, abs=1e-6 * total)


def test_terms_that_cancel_take_no_rank(tmp_path: Path) -> None:
    base = plain_base.tensors({"unet.to_k": (12, 20), "unet.to_q": (12, 12)})
    shift = plain_base.mixed_shift(base, directions=0, terms=2)
    outer = {
        name: OuterTerms(np.concatenate([each.a, -each.a[:1]]), np.concatenate([each.b, each.b[:1]]))
        for name, each in shift.outer.items()
    }
    cancelled = SpectralShift(dict(shift), shift.metadata, outer=outer)
    done = write_lora(cancelled, tmp_path / "l.safetensors", base=plain_base.write(tmp_path, base))
    assert set(done.ranks.values()) == {1}


def test_what_cannot_go_into_a_lora_is_told(tmp_path: Path) -> None:
    shapes = plain_base.SHAPES | {"unet.token_embedding": (20, 8)}
    base = plain_base.tensors(shapes)
    words = ["unet.token_embedding"]
    shift = plain_base.mixed_shift(base, 2, 1, words)
    outer = {name: each for name, each in shift.outer.items() if name not in words}
    deltas = {name: 0 * delta if name in words else delta for name, delta in shift.items()}
    shift = SpectralShift(deltas, shift.metadata, outer=outer, words=shift.words)
    done = write_lora(shift, tmp_path / "l.safetensors", base=plain_base.write(tmp_path, base))
    exact = {name: each - base[name].double() for name, each in plain_base.shifted(base, shift).items()}
    total = sum(float(each.norm()) ** 2 for each in exact.values())
    told = {each.why.split(",")[0]: each for each in done.left_out}
    assert set(told) == {"norms", "vectors of a special word"}
    for why, name in (("norms", "unet.norm"), ("vectors of a special word", words[0])):
        assert told[why].weights == 1
        assert told[why].error == pytest.approx(float(exact[name].norm()) / total**0.5, rel=1e-5)


def test_weights_that_stayed_as_they_are_are_told(tmp_path: Path) -> None:
    pipe = load_pipeline()
    shift = small_models.random_shift(pipe, "unet.mid_block*to_?,unet.conv_in", seed=3)
    still = [name for name in shift if name.endswith("to_q")]
    assert still
    deltas = {name: np.zeros_like(delta) if name in still else delta for name, delta in shift.items()}
    done = write_lora(SpectralShift(deltas, shift.metadata), tmp_path / "lora.safetensors", rank=1)
    (left,) = done.left_out
    assert left.why.startswith("unchanged")
    assert (left.weights, left.error) == (len(still), 0.0)
    assert set(done.ranks) == set(shift) - set(still)


@pytest.mark.parametrize("few", [False, True], ids=["all directions", "few directions and terms"])
def test_without_loss_the_embedded_base_draws_the_same(few: bool, tmp_path: Path) -> None:
    pipe = load_pipeline()
    matrices = "unet.mid_block*to_?,unet.mid_block*conv?,unet.conv_in"
    if few:
        base = {
            target.name: target.weight.detach()
            for target in targets(pipe, f"{matrices},text_encoder*fc?,text_encoder*q_proj")
        }
        shift = plain_base.mixed_shift(base, directions=4, terms=2)
    else:
        shift = small_models.random_shift(pipe, matrices, seed=2, size=0.3)
    done = write_lora(shift, tmp_path / "lora.safetensors", error=None if few else 0)
    assert done.error == 0
    if few:
        assert set(done.ranks.values()) == {6}
    assert not done.left_out

    def draw() -> np.ndarray:
        seed = torch.Generator().manual_seed(0)
        pictures: np.ndarray = pipe("a fox", 32, 32, num_inference_steps=2, generator=seed, output_type="np").images
        return pictures

    before = draw()
    spectra.load(pipe, shift, name="it")
    spectra.activate(pipe, {"it": 1.0})
    ours = draw()
    spectra.unload(pipe)
    pipe.load_lora_weights(tmp_path / "lora.safetensors")
    assert np.abs(ours - before).max() > 0.1
    assert np.abs(draw() - ours).max() < 1e-3


@pytest.mark.parametrize("name", ["sd3", "flux-dev", "chroma", "qwen-image", "z-image"])
def test_pipelines_of_transformers_load_the_same_change(name: str, tmp_path: Path) -> None:
    pipe = tiny_families.build(name)
    pipe.save_pretrained(tmp_path / "base")
    base = weights(pipe, "transformer")
    shift = plain_base.mixed_shift({name: each.float() for name, each in base.items()}, directions=2, terms=1)
    ours = shifted(pipe, shift, "transformer")
    file = tmp_path / "lora.safetensors"
    done = write_lora(shift, file, base=str(tmp_path / "base"))
    pipe.load_lora_weights(file)
    pipe.fuse_lora(components=["transformer"])
    pipe.unload_lora_weights()
    theirs = weights(pipe, "transformer")
    able = [name for name in shift if base[name].ndim > 1]
    assert set(done.ranks) == set(able)
    assert {name for name in base if not torch.equal(theirs[name], base[name])} == set(able)
    assert distance(theirs, ours, able) < 1e-5 * distance(ours, base, able)
    comfy = tmp_path / "comfy.safetensors"
    keys = {key: re.sub("^transformer", "diffusion_model", key) for key in load_file(file)}
    keys = {key: renamed.replace(".attention.to_out.0.", ".attention.out.") for key, renamed in keys.items()}
    save_file({keys[key]: value for key, value in load_file(file).items()}, comfy)
    for each in (file, comfy):
        read = read_lora(each, shapes_of(base))
        changes = {name: read[name].double().view_as(base[name]) + base[name] for name in able}
        assert distance(changes, ours, able) < 1e-5 * distance(ours, base, able)


@pytest.mark.parametrize("kind", ["sd3", "flux"])
def test_transformers_of_sd3_and_flux(kind: str, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    model, _ = small_models.build(kind)
    base = weights(model, "transformer")
    shift = small_models.random_shift(model, "transformer", seed=1)
    ours = shifted(model, shift, "transformer")
    file, lora = tmp_path / "transformer.safetensors", tmp_path / "lora.safetensors"
    save_file({f"{n.removeprefix('transformer.')}.weight": w.float().contiguous() for n, w in base.items()}, file)
    done = write_lora(shift, lora, base=str(file), rank=3)
    model.load_lora_adapter(lora, prefix="transformer")
    model.fuse_lora()
    model.unload_lora()
    theirs = weights(model, "transformer")
    assert {name for name in base if not torch.equal(theirs[name], base[name])} == set(done.ranks)
    able = [name for name in shift if base[name].ndim > 1]
    error = distance(theirs, ours, able) / distance(ours, base, able)
    assert error == pytest.approx(done.error, rel=1e-4)
    kohya = write_lora(shift, tmp_path / "kohya.safetensors", base=str(file), rank=3, layout="kohya")
    assert set(read_lora(tmp_path / "kohya.safetensors", shapes_of(base))) == set(kohya.ranks)


@pytest.mark.parametrize("few", [False, True], ids=["all directions", "few directions and terms"])
@pytest.mark.parametrize("kind", ["flux", "clip", "unet"])
def test_peft_takes_the_file_with_its_own_configuration(kind: str, few: bool, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    model, _ = small_models.build(kind)
    part = {"flux": "transformer", "clip": "text_encoder"}.get(kind, kind)
    pattern = part.replace("_", "-")
    base = weights(model, pattern)
    if few:
        shift = plain_base.mixed_shift({name: each.float() for name, each in base.items()}, directions=2, terms=1)
        ours = plain_base.shifted(base, shift)
        model.double()  # so that merging rounds nothing
    else:
        shift = small_models.random_shift(model, pattern, seed=3)
        ours = shifted(model, shift, pattern)
    file, lora = tmp_path / f"{part}.safetensors", tmp_path / "lora.safetensors"
    save_file({f"{n.removeprefix(part + '.')}.weight": w.float().contiguous() for n, w in base.items()}, file)
    done = write_lora(shift, lora, base=str(file), error=None if few else 0.4)
    with safe_open(lora, "pt") as opened:
        said = json.loads(opened.metadata()["lora_adapter_metadata"])
    wrapped = peft.get_peft_model(model, peft.LoraConfig(**{k.removeprefix(part + "."): v for k, v in said.items()}))
    tensors = {key.removeprefix(part + ".").removeprefix("text_model."): t for key, t in load_file(lora).items()}
    loaded = peft.set_peft_model_state_dict(wrapped, {f"base_model.model.{key}": t for key, t in tensors.items()})
    assert not loaded.unexpected_keys
    assert not [key for key in loaded.missing_keys if "lora" in key]
    theirs = weights(wrapped.merge_and_unload(), pattern)
    assert {name for name in base if not torch.equal(theirs[name], base[name])} == set(done.ranks)
    off = distance(theirs, ours, done.ranks) / distance(ours, base, done.ranks)
    assert off <= (1e-6 if few else done.error * (1 + 1e-4))


shapes = st.one_of(
    st.tuples(st.integers(1, 9), st.integers(1, 9)),
    st.tuples(st.integers(1, 5), st.integers(1, 4), st.sampled_from([1, 3]), st.sampled_from([1, 3])),
)


@settings(max_examples=25)
@given(
    some=st.lists(shapes, min_size=1, max_size=3),
    layout=st.sampled_from(["peft", "kohya"]),
    dtype=st.sampled_from(["float32", "float16", "bfloat16"]),
    rank=st.one_of(st.none(), st.integers(1, 9)),
    error=st.floats(0, 0.9),
    size=st.sampled_from([0.01, 0.3, 3.0]),
    singular=st.booleans(),
)
def test_the_error_is_the_predicted_one(
    some: list[tuple[int, ...]],
    layout: LoraLayout,
    dtype: StoredDtype,
    rank: int | None,
    error: float,
    size: float,
    singular: bool,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("lora")
    base = plain_base.tensors({f"unet.w{number}": shape for number, shape in enumerate(some)})
    if singular:
        base = {name: weight[:1].expand_as(weight).clone() for name, weight in base.items()}
    shift = plain_base.random_shift(base, size)
    asked: dict[str, Any] = {"error": error} if rank is None else {"rank": rank}
    file = folder / "lora.safetensors"
    done = write_lora(shift, file, base=plain_base.write(folder, base), layout=layout, dtype=dtype, **asked)
    found = read_lora(file, shapes_of(base))
    # Of a singular weight the directions of its null space are free: a shift means one choice of them, so it is judged
    # by the shift itself as serving has it.
    exact = {name: matrix(weight) for name, weight in served(base, shift).items()}
    changes = {name: exact[name] - matrix(base[name].double()) for name in base}
    total = math.sqrt(sum(float(change.norm()) ** 2 for change in changes.values()))
    rest = sum(float(((found[n].double() if n in found else 0) - change).norm()) ** 2 for n, change in changes.items())
    assert math.sqrt(rest) / total == pytest.approx(math.hypot(done.error, done.rounding), rel=1e-3, abs=2e-6)
    if rank is None:
        assert done.error <= error * (1 + 1e-12)


def served(base: dict[str, Tensor], shift: SpectralShift) -> dict[str, Tensor]:
    """The shifted weights in float64, as spectra itself makes them."""
    from spectra.spectrum.decomposition import decompose
    from spectra.spectrum.shifted_weight import shifted_weight

    return {n: shifted_weight(w.double(), decompose(w), torch.from_numpy(shift[n].copy())) for n, w in base.items()}


@settings(max_examples=60)
@given(
    sizes=st.lists(st.tuples(st.integers(1, 30), st.integers(1, 30)), min_size=1, max_size=4),
    error=st.floats(0, 0.99),
    seed=st.integers(0, 100),
    levels=st.sampled_from([1, 3, 1000]),
)
def test_directions_are_kept_greedily_and_within_the_error(
    sizes: list[tuple[int, int]], error: float, seed: int, levels: int
) -> None:
    random = np.random.default_rng(seed)
    changes = {
        f"w{number}": WeightChange(random.integers(0, levels + 1, min(shape)) / levels, shape)
        for number, shape in enumerate(sizes)
    }
    kept = keep_directions(changes, error=error)
    assert truncation_error(changes, kept) <= error * (1 + 1e-12)
    for name, each in changes.items():
        assert np.all(np.diff(np.abs(each.d[kept[name]])) <= 0)
        assert np.all(each.d[kept[name]] != 0)
    least = min((np.min(c.d[kept[n]] ** 2) / sum(c.shape) for n, c in changes.items() if len(kept[n])), default=np.inf)
    most = max((np.max(np.delete(c.d, kept[n]) ** 2, initial=0) / sum(c.shape) for n, c in changes.items()), default=0)
    assert most <= least


@pytest.mark.parametrize("asked", [{"rank": 2, "error": 0.1}, {"rank": 0}, {"error": 1.0}, {"error": -0.1}])
def test_wrong_sizes_are_refused(asked: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="expected"):
        keep_directions({}, **asked)


def test_refusals_leave_nothing(tmp_path: Path) -> None:
    base = plain_base.tensors()
    path = plain_base.write(tmp_path, base)
    shift = plain_base.random_shift(base)
    norm_only = plain_base.random_shift({"unet.norm": base["unet.norm"]})
    other = plain_base.random_shift(plain_base.tensors(seed=5))
    out = tmp_path / "out" / "lora.safetensors"
    with pytest.raises(FormatError, match="nothing is written"):
        write_lora(norm_only, out, base=path, rank=1)
    with pytest.raises(MismatchError, match="another base"):
        write_lora(other, out, base=path, rank=1)
    with pytest.raises(FormatError, match="do not fit into float16"):
        write_lora(plain_base.random_shift(base, 1e11), out, base=path, rank=1, dtype="float16")
    assert not out.parent.exists() or not list(out.parent.iterdir())
    write_lora(shift, out, base=path, rank=1)
    with pytest.raises(OutputError, match="--force"):
        write_lora(shift, out, base=path, rank=1)
    write_lora(shift, out, base=path, rank=2, force=True)


def test_a_direction_that_does_nothing_is_not_stored(tmp_path: Path) -> None:
    base = plain_base.tensors({"unet.to_q": (12, 12), "unet.to_k": (12, 20)})
    shift = plain_base.random_shift(base)
    some = shift["unet.to_q"] * (np.arange(12) < 3)
    sparse = SpectralShift({"unet.to_q": some, "unet.to_k": 0 * shift["unet.to_k"]}, shift.metadata)
    done = write_lora(sparse, tmp_path / "l.safetensors", base=plain_base.write(tmp_path, base), error=0)
    assert done.ranks == {"unet.to_q": 3}
