"""The methods that are compared: each on a model of its own, all computing what they are named for."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from spectra.benchmarks import run
from spectra.benchmarks.steps import flops, memory
from spectra.benchmarks.steps.methods import METHODS, prepare, twin
from spectra.benchmarks.steps.models import MODELS, Denoiser, denoiser, matrices
from spectra.errors import InputError
from spectra.spectrum.placeholders import Spectra


@pytest.fixture(scope="module")
def model() -> Denoiser:
    return denoiser("tiny", batch=2, device="cpu")[0]


@pytest.fixture(scope="module")
def shapes() -> Denoiser:
    return denoiser("tiny", batch=2)[0]


@pytest.mark.parametrize(
    ("name", "parameters", "count"),
    [
        ("sd15", 859_520_964, 282),
        ("sdxl", 2_567_463_684, 794),
        ("flux", 11_901_408_320, 504),
        ("sd3", 2_028_328_000, 341),
    ],
)
def test_models_are_the_published_ones(name: str, parameters: int, count: int) -> None:
    made, _ = denoiser(name)
    assert sum(p.numel() for p in made.module.parameters()) == parameters
    assert len(matrices(made)) == count


def test_the_paper_and_svdiff_compute_the_same_step(model: Denoiser) -> None:
    spectra = Spectra()
    found: dict[str, Any] = {}
    for name in ("paper", "svdiff"):
        method = prepare(name, model, spectra)
        loss = method.forward()
        loss.backward()
        found[name] = (loss.detach(), {path: p.grad for path, p in method.parameters.items()})
    torch.testing.assert_close(found["paper"][0], found["svdiff"][0], rtol=1e-5, atol=0)
    wanted, got = (torch.cat(list(found[name][1].values())) for name in ("paper", "svdiff"))
    assert (got - wanted).norm() < 1e-3 * wanted.norm()
    assert wanted.norm() > 0


def test_methods_leave_the_model_as_it_is_and_share_its_weights(model: Denoiser) -> None:
    for name in METHODS:
        prepare(name, model, Spectra())
    assert not any(p.requires_grad for p in model.module.parameters())
    assert "forward" not in vars(matrices(model)[0][1])
    first, second = next(model.module.parameters()), next(twin(model).module.parameters())
    assert first is not second
    assert first.data_ptr() == second.data_ptr()


def test_every_method_trains_what_it_says(shapes: Denoiser) -> None:
    count = len(matrices(shapes))
    trained = {name: len(prepare(name, shapes).parameters) for name in METHODS}
    everything = len(list(shapes.module.parameters()))
    kernels = sum(module.weight.ndim > 2 and module.weight[0, 0].numel() > 1 for _, module in matrices(shapes))
    lora = {"lora-4": 2 * count, "lora-16": 2 * count}
    ours = {"svdiff": count, "shift": 3 * count + kernels}
    assert trained == {"frozen": 0, **lora, "full": everything, "paper": count, **ours}
    few = prepare("shift", shapes, directions=3, outer=2).parameters
    assert {len(p) for key, p in few.items() if key.endswith(".delta")} == {3}
    assert {len(p) for key, p in few.items() if ".outer." in key} == {2}
    with pytest.raises(InputError, match="directions and outer are both 0"):
        prepare("shift", shapes, directions=0, outer=0)


@pytest.mark.parametrize("name", ["frozen", "lora-4", "full", "paper", "shift"])
def test_counts_without_values_are_those_with_values(name: str, model: Denoiser, shapes: Denoiser) -> None:
    assert flops.count(prepare(name, shapes)) == flops.count(prepare(name, model))


@pytest.mark.parametrize("name", ["frozen", "lora-4", "lora-16", "full", "shift"])
def test_bytes_without_values_are_those_with_values(name: str, model: Denoiser, shapes: Denoiser) -> None:
    assert memory.count(prepare(name, shapes)) == memory.count(prepare(name, model))


def test_the_bytes_of_a_method_are_of_its_kind(shapes: Denoiser) -> None:
    counted = {name: memory.count(prepare(name, shapes)) for name in METHODS}
    weights = sum(p.nbytes for p in shapes.module.parameters())
    held = sum(module.weight.nbytes for _, module in matrices(shapes))
    assert {name: parts["weights"] for name, parts in counted.items()} == dict.fromkeys(METHODS, weights) | {
        "paper": weights - held
    }
    assert counted["full"]["gradients"] == weights
    assert 2 * weights <= counted["full"]["optimizer"] < 2.01 * weights
    lora = counted["lora-4"]
    for ours in (counted["svdiff"], counted["shift"]):
        assert lora["gradients"] == lora["trained"] > ours["trained"] == ours["gradients"]
        assert ours["bases"] > 0
    assert lora["bases"] == lora["materialized"] == counted["shift"]["materialized"] == 0
    # The paper's formula keeps every weight that it made until backward.
    assert counted["paper"]["saved"] > counted["frozen"]["saved"] + held


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "sd9"}, "no model is called 'sd9'; there are: sd15"),
        ({"name": "sd15", "resolution": 100}, "resolution takes a positive multiple of 64, got 100"),
        ({"name": "sd15", "batch": 0}, "batch takes 1 or more, got 0"),
    ],
)
def test_a_model_that_cannot_be(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        denoiser(**arguments)


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Any]:
    """What the cases that count report of the tiny model, by case and device."""
    found = {}
    for name in ("flops", "memory"):
        for device in ("cpu", "cuda"):
            settings = {"model": "tiny", "batch": "1", "device": device}
            out = tmp_path_factory.mktemp("records")
            found[name, device] = run.run(run.find(name), out=out, only=["frozen", "svdiff"], settings=settings).record
    return found


def test_flops_and_memory_report_an_object_by_method(records: dict[tuple[str, str], Any]) -> None:
    for name, figure in (("flops", "ratio"), ("memory", "beyond")):
        record = records[name, str(run.find(name).settings["device"])]
        assert record["failures"] == []
        assert list(record[figure]) == ["frozen", "svdiff"]
        assert record[figure]["svdiff"] > record[figure]["frozen"] > 0
    assert set(MODELS) >= {"sd15", "sdxl", "sd3", "flux"}


def test_goals_are_asked_of_their_own_model_and_size() -> None:
    def asked(model: str, resolution: int, batch: int, device: str = "cuda", **form: int) -> list[float]:
        settings = {"model": model, "resolution": resolution, "batch": batch, "device": device, **form}
        return [goal.asked for goal in flops.CASE.goals if goal.applies(settings)]

    assert asked("sd15", 512, 2) == [1.25]
    assert asked("sd15", 0, 8) == [1.2]
    assert not asked("sdxl", 512, 2) and not asked("sd15", 512, 2, "cpu")
    assert asked("sd15", 512, 2, directions=32, outer=1) == [1.25, 1.05]
    assert asked("flux", 0, 1, directions=16, outer=1) == [1]


def test_a_cpu_spends_memory_for_flops(records: dict[tuple[str, str], Any]) -> None:
    def figure(case: str, device: str) -> float:
        row = next(row for row in records[case, device]["rows"] if row["method"] == "svdiff")
        assert row["device"] == device
        return float(row["tflop" if case == "flops" else "beyond"])

    assert figure("flops", "cpu") <= figure("flops", "cuda")
    assert figure("memory", "cpu") > figure("memory", "cuda")
    with pytest.raises(InputError, match="device takes cpu or cuda, got 'gpu'"):
        prepare("svdiff", denoiser("tiny")[0], device="gpu")


def test_a_gpu_counts_what_it_runs_in_each_precision() -> None:
    """In half precision it projects twice in place of a Gram matrix; what is counted is then more."""
    counted = {}
    for dtype in (torch.float32, torch.bfloat16):
        shapes = denoiser("tiny", batch=4, dtype=dtype)[0]
        method = prepare("svdiff", shapes, device="cuda")
        assert method.adapter is not None
        for layer in method.adapter.layers():
            layer.plan = "materialized"
        counted[dtype] = sum(flops.count(method))
    assert counted[torch.bfloat16] > counted[torch.float32]
