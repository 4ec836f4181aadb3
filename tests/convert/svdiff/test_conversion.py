"""Shifts of other implementations of SVDiff become ours, and ours theirs; the plain formula is the judge."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import plain_base
import pytest
import small_models
import svdiff_pytorch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

import spectra
from spectra.convert.file_kinds import file_kind, files_of
from spectra.convert.svdiff.conversion import export_svdiff, import_svdiff
from spectra.convert.svdiff.files import read_svdiff, reshape_of
from spectra.errors import FormatError, MismatchError, OutputError
from spectra.families import targets
from spectra.shift.shift import SpectralShift
from spectra.spectrum.decomposition import decompose
from spectra.spectrum.shifted_weight import shifted_vector, shifted_weight

KOHYA = svdiff_pytorch.KOHYA


def relative(a: Tensor, b: Tensor) -> float:
    return float((a - b).double().norm() / b.double().norm())


def served(base: dict[str, Tensor], shift: SpectralShift) -> dict[str, Tensor]:
    """The weights as spectra shifts them."""
    found = {}
    for name, weight in base.items():
        delta = torch.from_numpy(shift[name].copy())
        plain = weight.ndim == 1
        found[name] = shifted_vector(weight, delta) if plain else shifted_weight(weight, decompose(weight), delta)
    return found


def foreign(base: dict[str, Tensor], size: float, **how: bool) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(4)
    return {n: size * torch.randn(svdiff_pytorch.length(w, **how), generator=generator) for n, w in base.items()}


@pytest.mark.parametrize("kind", ["unet", "clip"])
def test_outputs_are_those_of_the_plain_formula_and_back(kind: str, tmp_path: Path) -> None:
    part, pattern = {"unet": ("unet", "unet"), "clip": ("text_encoder", "text-encoder")}[kind]
    model, _ = small_models.build(kind)
    base = {t.name: t.weight.detach().clone() for t in targets(model, pattern)}
    path = tmp_path / f"{part}.safetensors"
    save_file({f"{n.removeprefix(part + '.')}.weight": w.contiguous() for n, w in base.items()}, path)
    theirs = {f"{n.removeprefix(part + '.')}.delta": d for n, d in foreign(base, 0.03).items()}
    save_file(theirs, tmp_path / "spectral_shifts.safetensors")

    def outputs(shift: SpectralShift | None, plain: dict[str, Tensor] | None) -> Tensor:
        model, call = small_models.build(kind)
        if shift is not None:
            spectra.load(model, shift, name="it")
            spectra.activate(model, {"it": 1.0})
        svdiff_pytorch.put(model, plain or {})
        try:
            with torch.no_grad():
                return call()
        finally:
            if shift is not None:
                spectra.unload(model)

    shift, fit = import_svdiff([tmp_path / "spectral_shifts.safetensors"], base=str(path))
    assert fit.layout == "svdiff-pytorch"
    assert fit.error < 2e-4
    trained = outputs(None, theirs)
    assert relative(outputs(shift, None), trained) < 1e-5
    assert relative(outputs(None, None), trained) > 0.05

    export_svdiff(shift, tmp_path / "back", base=str(path))
    back = {
        k.removeprefix("text_model."): d for file in files_of(tmp_path / "back") for k, d in load_file(file).items()
    }
    assert back.keys() == theirs.keys()
    assert relative(outputs(None, back), trained) < 1e-5


@settings(max_examples=20)
@given(
    shapes=st.lists(
        st.one_of(
            st.tuples(st.integers(1, 12), st.integers(1, 12)),
            st.tuples(st.integers(1, 6), st.integers(1, 6), st.sampled_from([1, 3]), st.sampled_from([1, 3])),
            st.tuples(st.integers(1, 9)),
        ),
        min_size=1,
        max_size=3,
    ),
    size=st.sampled_from([0.02, 0.3, 3.0]),
    degenerate=st.sampled_from(["no", "rank one", "orthogonal"]),
)
def test_the_error_told_is_the_error(
    shapes: list[tuple[int, ...]], size: float, degenerate: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("svdiff")
    base = plain_base.tensors({f"unet.w{number}": shape for number, shape in enumerate(shapes)})
    if degenerate == "rank one":
        base = {n: w[:1].expand_as(w).clone() if w.ndim > 1 else w for n, w in base.items()}
    if degenerate == "orthogonal":
        base = {n: torch.nn.init.orthogonal_(torch.empty(w.shape)) if w.ndim > 1 else w for n, w in base.items()}
    theirs = foreign(base, size)
    save_file({f"{n.removeprefix('unet.')}.delta": d for n, d in theirs.items()}, folder / "s.safetensors")
    shift, fit = import_svdiff([folder / "s.safetensors"], base=plain_base.write(folder, base))
    wanted = {n: svdiff_pytorch.weight_of(w.double(), theirs[n].double()) for n, w in base.items()}
    if degenerate != "no":  # where vectors are free, float64 chooses others than float32 did
        wanted = {n: svdiff_pytorch.weight_of(w, theirs[n]).double() for n, w in base.items()}
    ours = served(base, shift)
    rest = math.sqrt(sum(float((ours[n] - wanted[n]).norm()) ** 2 for n in base))
    change = math.sqrt(sum(float((wanted[n] - base[n]).norm()) ** 2 for n in base))
    assert rest / change == pytest.approx(fit.error, rel=0.05, abs=3e-4 if size < 0.1 else 5e-5)
    if degenerate == "no":
        assert fit.error < 1e-2


def test_svdiff_kohyas_linear_layers_are_exact_and_its_convolutions_the_closest(tmp_path: Path) -> None:
    base = plain_base.tensors({n: s for n, s in plain_base.SHAPES.items() if len(s) > 1})
    path = plain_base.write(tmp_path, base)
    theirs = foreign(base, 0.3, kohya=True)
    file = tmp_path / "kohya.safetensors"
    keys = {n: "lora_unet_" + n.removeprefix("unet.").replace(".", "_") for n in base}
    bias = {f"{keys['unet.conv']}.org_module.bias": torch.zeros(8)}
    save_file({keys[n] + KOHYA: d for n, d in theirs.items()} | bias, file)
    assert file_kind(file) == "svdiff-kohya"
    shift, fit = import_svdiff([file], base=path)
    assert (fit.reshape, fit.telling) == ("channels-last", 1)  # 16 x 36 against 144 x 4
    assert list(fit.beside.values()) == [1]
    wanted = {n: svdiff_pytorch.weight_of(w, theirs[n], kohya=True) for n, w in base.items()}
    ours = served(base, shift)
    for name, weight in base.items():
        error = relative(ours[name] - weight, wanted[name] - weight)
        if weight.ndim == 2 or weight.shape[2] == 1:
            assert error < 1e-4
            continue
        assert 0.05 < error < 1
        closest = np.linalg.norm(shift[name]) ** 2 / float((wanted[name] - weight).norm()) ** 2
        assert 1 - error**2 == pytest.approx(closest, abs=1e-4)
    # The same vectors under other names: the length of one convolution gives them away.
    save_file({f"{n.removeprefix('unet.')}.delta": d for n, d in theirs.items()}, tmp_path / "renamed.safetensors")
    again, told = import_svdiff([tmp_path / "renamed.safetensors"], base=path)
    assert (told.layout, told.reshape) == ("svdiff-pytorch", "channels-last")
    assert all(np.allclose(again[name], shift[name], atol=1e-5) for name in shift)


def test_vectors_of_norms_and_pickles(tmp_path: Path) -> None:
    base = plain_base.tensors()
    path = plain_base.write(tmp_path, base)
    short = {n.removeprefix("unet."): n for n in base}
    pickled = {f"{s}.parametrizations.weight.0.delta": foreign(base, 0.2)[n] for s, n in short.items()}
    torch.save({"unet": pickled, "text_encoder": {"modifier_tokens.<new1>": torch.zeros(3)}}, tmp_path / "ckpt.pt")
    with pytest.raises(FormatError, match="--allow-pickle"):
        import_svdiff([tmp_path / "ckpt.pt"], base=path)
    shift, fit = import_svdiff([tmp_path / "ckpt.pt"], base=path, allow_pickle=True)
    assert fit.layout == "dome272"
    assert fit.beside == {"trained token embeddings": 1}
    wanted = svdiff_pytorch.weight_of(base["unet.norm"], pickled["norm.parametrizations.weight.0.delta"])
    assert relative(base["unet.norm"] + torch.from_numpy(shift["unet.norm"].copy()), wanted) < 1e-6

    added = {f"{s}.parametrizations.weight.0.eigenvalues_delta": d for s, n in short.items()
             for d in [foreign(base, 0.2, added_norms=True)[n]]}  # fmt: skip
    save_file(added, tmp_path / "phymhan.safetensors")
    shift, fit = import_svdiff([tmp_path / "phymhan.safetensors"], base=path)
    assert fit.layout == "phymhan"
    expected = added["norm.parametrizations.weight.0.eigenvalues_delta"].numpy()
    assert np.array_equal(shift["unet.norm"], expected)


class _Hostile:
    def __reduce__(self) -> Any:
        return Path.write_text, (Path("owned"), "yes")


def test_a_hostile_pickle_runs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"unet": {"a.parametrizations.weight.0.delta": _Hostile()}}, tmp_path / "ckpt.pt")
    with pytest.raises(FormatError, match="pickle of tensors"):
        read_svdiff([tmp_path / "ckpt.pt"], ["unet.a"], allow_pickle=True)
    assert not (tmp_path / "owned").exists()


def test_a_norm_keeps_what_lies_along_it(tmp_path: Path) -> None:
    base = plain_base.tensors()
    path = plain_base.write(tmp_path, base)
    shift = plain_base.random_shift(base, 0.1)
    fit = export_svdiff(shift, tmp_path / "out", base=path)
    theirs = load_file(tmp_path / "out" / "spectral_shifts.safetensors")
    delta, norm = torch.from_numpy(shift["unet.norm"].copy()), base["unet.norm"]
    lost = svdiff_pytorch.weight_of(norm, theirs["norm.delta"]) - norm - delta
    total = sum(float(np.sum(np.square(d, dtype=np.float64))) for d in shift.values())
    assert fit.left_out[0].error == pytest.approx(float(lost.norm()) / total**0.5, rel=1e-3)
    assert abs(float(lost @ norm)) < 1e-4  # nothing along the norm is lost
    assert theirs["norm.delta"].shape == (1,)
    back, _ = import_svdiff(files_of(tmp_path / "out"), base=path)
    for name, weight in base.items():
        if weight.ndim > 1:
            assert np.abs(back[name] - shift[name]).max() < 1e-4


@pytest.mark.parametrize(
    ("tensors", "says"),
    [
        ({"to_q.delta": (12,), "nothing.delta": (3,)}, "nothing.delta is no weight of the base"),
        ({"to_q.delta": (11,)}, "takes 12 floats in this base, the file has 11"),
        ({"to_q.delta": (12, 1)}, "expected a vector of finite floats"),
        ({"to_q.weight": (12,)}, "no file of svdiff-pytorch"),
        ({"to_q.delta": (12,), "to_q.bias": (12,)}, "to_q.bias is no weight"),
    ],
)
def test_what_does_not_fit_is_refused(tensors: dict[str, tuple[int, ...]], says: str, tmp_path: Path) -> None:
    path = plain_base.write(tmp_path, plain_base.tensors())
    save_file({key: torch.zeros(shape) for key, shape in tensors.items()}, tmp_path / "s.safetensors")
    with pytest.raises(FormatError, match=says):
        import_svdiff([tmp_path / "s.safetensors"], base=path)


def test_two_files_of_one_shift(tmp_path: Path) -> None:
    names = ["unet.a", "text_encoder.encoder.layers.0.b"]
    save_file({"a.delta": torch.ones(3)}, tmp_path / "spectral_shifts.safetensors")
    save_file({"text_model.encoder.layers.0.b.delta": torch.ones(2)}, tmp_path / "spectral_shifts_te.safetensors")
    found = read_svdiff(files_of(tmp_path), names)
    assert set(found.deltas) == set(names)
    assert reshape_of(found, {"unet.a": (3, 4), names[1]: (2, 2)}) == ("first-dim", 0)
    with pytest.raises(FormatError, match="in another of the files"):
        read_svdiff([tmp_path / "spectral_shifts.safetensors"] * 2, names)
    with pytest.raises(FormatError, match="no file to read"):
        read_svdiff([], names)
    with pytest.raises(FormatError, match="a folder with none"):
        files_of(tmp_path / "..")


def test_exports_are_refused_for_other_bases_and_components(tmp_path: Path) -> None:
    base = plain_base.tensors()
    path = plain_base.write(tmp_path, base)
    with pytest.raises(MismatchError, match="another base"):
        export_svdiff(plain_base.random_shift(plain_base.tensors(seed=7)), tmp_path / "out", base=path)
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "thesis.txt").write_text("years")
    with pytest.raises(OutputError, match="holds other files"):
        export_svdiff(plain_base.random_shift(base), tmp_path / "precious", base=path, force=True)
    strange = plain_base.random_shift({"transformer.a": torch.randn(3, 3)})
    with pytest.raises(FormatError, match="transformer"):
        export_svdiff(strange, tmp_path / "out", base=path)
    rounded = {name: weight.half().float() for name, weight in base.items()}
    other = tmp_path / "rounded"
    other.mkdir()
    from spectra.compatibility.rounded_bases import Fingerprints
    from spectra.shift.metadata import ROUNDED, ShiftMetadata

    shift = plain_base.random_shift(base)
    prints = {n: Fingerprints.of(w).rounded() for n, w in base.items()}
    known = {dtype: {n: digits[dtype] for n, digits in prints.items()} for dtype in ROUNDED}
    full = SpectralShift(dict(shift), ShiftMetadata("test", shift.metadata.fingerprints, rounded=known))
    save_file({f"{n[5:]}.weight": w.half() for n, w in rounded.items()}, other / "unet.safetensors")
    with pytest.raises(MismatchError, match="rounded to float16"):
        export_svdiff(full, tmp_path / "out", base=str(other / "unet.safetensors"))
    assert not (tmp_path / "out").exists()


def test_a_shift_of_few_directions_goes_over_and_one_of_outer_terms_does_not(tmp_path: Path) -> None:
    base = {name: each for name, each in plain_base.tensors().items() if each.ndim > 1}
    path = plain_base.write(tmp_path, base)
    few = plain_base.mixed_shift(base, directions=3, terms=0)
    export_svdiff(few, tmp_path / "out", base=path)
    theirs = load_file(tmp_path / "out" / "spectral_shifts.safetensors")
    for name, weight in plain_base.shifted(base, few).items():
        made = svdiff_pytorch.weight_of(base[name], theirs[f"{name.removeprefix('unet.')}.delta"])
        assert float((made - weight).norm()) < 1e-5 * float(weight.norm())
    mixed = plain_base.mixed_shift(base, directions=3, terms=1)
    with pytest.raises(FormatError, match=r"outer terms .* write a LoRA, or bake it"):
        export_svdiff(mixed, tmp_path / "other", base=path)
    assert not (tmp_path / "other").exists()
