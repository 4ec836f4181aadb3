"""Plans of tiny pipelines against what is measured on them, and of published bases without weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny_families
import torch
from torch import Tensor

from spectra.adapters.live_parameters import Form
from spectra.adapters.training_adapter import attach_form
from spectra.bases.pipeline import load_pipeline
from spectra.bases.published import PUBLISHED
from spectra.bases.shapes import base_shapes, published_shapes
from spectra.errors import BaseError, InputError
from spectra.families.known import family_of
from spectra.naming.target_subsets import component_of
from spectra.planning.held_tensors import held_tensors
from spectra.planning.plan import Plan, Planner, plan
from spectra.planning.request import PlanRequest, read_memory
from spectra.planning.saved_tensors import storages
from spectra.shift.shift_file import write_shift
from spectra.spectrum.cache.spectrum_cache import SpectrumCache
from spectra.training.config import make_config
from spectra.version import versions

SETTINGS: dict[str, dict[str, Any]] = {
    "balanced": {},
    "few": {"directions": "3", "outer": "2", "lr_1d": 1e-6, "text_encoder": False, "prior_weight": 0.0},
    "all": {"preset": "svdiff", "batch": 2, "prior_weight": 0.0, "file_dtype": "float16"},
}
CLOSE = 0.05


class Measured:
    """What a tiny pipeline takes with a request's shift on it."""

    def __init__(self, folder: Path, request: PlanRequest, cache: Path) -> None:
        config = request.config
        pipe = load_pipeline(str(folder))
        family = family_of(pipe)
        form = Form(request.directions, request.terms, vectors=config.lr_1d > 0)
        names = config.targets_of(family)
        adapter = attach_form(pipe, names, form, cache=SpectrumCache(cache))
        parameters = adapter.train().by_key
        for layer in adapter.layers():
            layer.planned_device = torch.device("cuda")
        self.floats = sum(parameter.numel() for parameter in parameters.values())
        self.weights = {
            name: sum(storages([*model.parameters(), *model.buffers()]).values())
            for name, model in pipe.components.items()
            if isinstance(model, torch.nn.Module)
        }
        self.trained = {component_of(name) for name in parameters}
        self.spectra_files = sum(file.stat().st_size for file in cache.rglob("*.safetensors"))
        n, side = request.samples, 32 // int(pipe.vae_scale_factor)
        noisy = torch.randn(n, pipe.vae.config.latent_channels, side, side)

        def step() -> Tensor:
            condition = family.encode(pipe, ["a", "b"][: request.prompts])
            rows = condition.rows(torch.arange(n) % request.prompts)
            return family.predict(pipe, noisy, torch.full((n,), 500), rows)

        step().square().mean().backward()
        optimizer = torch.optim.AdamW(parameters.values())
        optimizer.step()
        state = [value for entry in optimizer.state.values() for value in entry.values()]
        self.optimizer = sum(value.nbytes for value in state)
        self.gradients = sum(p.grad.nbytes for p in parameters.values() if p.grad is not None)
        models = [getattr(pipe, name) for name in self.trained | {family.model}]
        layers = held_tensors(adapter._layers())
        own = [value for model in models for value in [*model.parameters(), *model.buffers()]]
        known = storages([*own, *parameters.values(), *layers])
        saved: list[Tensor] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):  # type: ignore[func-returns-value]
            step()
        self.activations = sum(size for key, size in storages(saved).items() if key not in known)
        # On a CPU in float32 some are views of the cache's files.
        held = {(t.data_ptr(), t.nbytes) for t in held_tensors(adapter._layers())}
        self.held = sum(size for _, size in held)
        with torch.no_grad():
            for parameter in parameters.values():
                parameter.add_(torch.rand_like(parameter) + 0.1)
        told = {"settings": config.as_dict(), "seed": config.seed, "versions": versions()}
        dtype = "float16" if config.file_dtype == "float16" else "float32"
        shift = adapter.shift(base=str(folder), **told)
        self.file_bytes = write_shift(shift, cache / "shift.safetensors", dtype=dtype)  # type: ignore[arg-type]
        adapter.detach()


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of the tiny pipelines."""
    made = {}
    for name in ("sd", "sdxl", "sd3", "flux-dev"):
        made[name] = tmp_path_factory.mktemp("bases") / name
        tiny_families.build(name).save_pretrained(made[name])
    return made


def planned(folder: Path, **settings: Any) -> Plan:
    return plan(PlanRequest(make_config({"base": str(folder), "resolution": 32, **settings})))


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("name", ["sd", "sdxl", "sd3", "flux-dev"])
def test_a_plan_is_what_is_measured(name: str, settings: str, folders: dict[str, Path], tmp_path: Path) -> None:
    found = planned(folders[name], **SETTINGS[settings])
    measured = Measured(folders[name], found.request, tmp_path)
    memory = found.memory
    assert found.floats == measured.floats
    assert memory.trained == 2 * 4 * measured.floats
    assert {name: measured.weights[name] for name in memory.weights} == dict(memory.weights)
    assert measured.trained <= set(memory.weights)
    assert memory.gradients == pytest.approx(measured.gradients, rel=CLOSE)
    assert memory.optimizer == pytest.approx(measured.optimizer, rel=CLOSE)
    assert memory.activations == pytest.approx(measured.activations, rel=CLOSE)
    whole = "memory.spectra" in found.estimated  # a tail depends on the weight's values
    assert whole == (settings == "all")
    assert memory.spectra == pytest.approx(measured.held, rel=0.15 if whole else CLOSE)
    assert found.file_bytes == pytest.approx(measured.file_bytes, rel=CLOSE)
    assert found.spectra.bytes == pytest.approx(measured.spectra_files, rel=CLOSE)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_bases_are_planned_without_weights(name: str) -> None:
    request = PlanRequest(make_config({"base": PUBLISHED[name].hub_id}), name)
    found = plan(request)
    assert found.resolution == PUBLISHED[name].resolution
    assert found.layers["matrices"] > 100
    assert found.file_bytes > 2 * found.floats
    assert 0 < found.memory.checkpointed < found.memory.activations
    assert found.computed < found.blocks / 2
    assert found.spectra.flops == 0  # the default's outer terms need no spectrum


def test_encoders_leave_unless_they_are_trained_or_encode_in_each_step(folders: dict[str, Path]) -> None:
    trained = planned(folders["sd"]).memory.weights
    put_away = planned(folders["sd"], text_encoder=False).memory.weights
    anew = planned(folders["sd"], text_encoder=False, cache_prompts=False, cache_latents=False).memory.weights
    assert (set(trained), set(put_away)) == ({"unet", "text_encoder"}, {"unet"})
    assert set(anew) == {"unet", "text_encoder", "vae"}


def test_batch_precision_and_quantising_count_for_what_they_are(folders: dict[str, Path]) -> None:
    planner = Planner(base_shapes(str(folders["flux-dev"])))

    def memory(precision: str = "stored", **settings: Any) -> Any:
        common = {"base": "x", "resolution": 32, "outer": "1", "directions": "0", "precision": precision}
        return planner.memory(PlanRequest(make_config(common | settings)))

    plain, two, half = memory(), memory(batch=2), memory("bfloat16")
    assert 1.9 < two.activations / plain.activations <= 2
    assert half.weights["transformer"] * 2 == plain.weights["transformer"]
    assert 0.4 < half.activations / plain.activations < 0.7
    eight, four = (memory("bfloat16", quantize=kind).weights["transformer"] for kind in ("int8", "nf4"))
    assert half.weights["transformer"] > eight > four > half.weights["transformer"] / 4


def test_a_prior_doubles_the_pictures(folders: dict[str, Path]) -> None:
    assert planned(folders["sd"]).request.samples == 2
    assert planned(folders["sd"], prior_weight=0.0).request.samples == 1


def test_bytes_shared_out_are_marked_as_estimated(folders: dict[str, Path]) -> None:
    found = planned(folders["sd"], outer="20kB")
    assert (found.file_bytes, found.floats) == (20_000, 10_000)
    assert {"file_bytes", "floats"} <= set(found.estimated)
    assert "file_bytes" not in planned(folders["sd"]).estimated


def test_a_special_word_keeps_its_encoder(folders: dict[str, Path]) -> None:
    found = planned(folders["sd"], text_encoder=False, word=True)
    assert found.layers["embeddings"] == 1
    assert "text_encoder" in found.memory.weights


@pytest.mark.parametrize("text", ["24", "GB", "-3GB", "0GB", "24TB"])
def test_a_size_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="expected a size such as 24GB"):
        read_memory(text)


def test_sizes_are_read() -> None:
    assert [read_memory(text) for text in ("24GB", "1.5 GB", "80GiB")] == [24 * 10**9, 1_500_000_000, 80 * 2**30]


def test_what_cannot_be_planned_is_one_line(folders: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="multiples of 8 pixels, got 30"):
        planned(folders["sd"], resolution=30)
    with pytest.raises(BaseError, match="expected one of sd15"):
        published_shapes("sd16")
    with pytest.raises(InputError, match="no such file"):
        planned(folders["flux-dev"], quantize=str(tmp_path / "none.gguf"))
