"""The script for the day a GPU is there, run small on the CPU: that it runs through, and that it would notice."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from spectra.benchmarks import run
from spectra.benchmarks.kernels import gpu
from spectra.benchmarks.kernels import jobs as kernel_jobs
from spectra.cli.app import main

TINY = {"device": "cpu", "tiny": "true", "models": "tiny", "repetitions": "1", "batch": "1", "dtype": "float32"}


def test_without_a_gpu_it_says_so_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert main(["bench", "gpu", "--out", str(tmp_path), "--json"]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: no GPU here")
    assert len(captured.err.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_all_of_it_runs_through_on_a_cpu(tmp_path: Path) -> None:
    record = run.run(gpu.CASE, out=tmp_path, settings=TINY | {"compiler": ""}).record
    assert record["failures"] == []
    rows = {row["item"]: row for row in record["rows"]}
    assert {item.split()[0] for item in rows} == {"check", "kernel", "step"}
    assert 0 < record["summary"]["error_ratio"] <= gpu.ALLOWED
    kernel = rows["kernel factored apply, tiny, bf16"]
    assert all(kernel[f"{name}_us"] > 0 for name in ("ours", "plain", "lora"))
    assert rows["step tiny, eager"]["gradient_error"] < 1e-4
    assert {"machine", "versions", "commit"} <= json.loads((tmp_path / "gpu.jsonl").read_text()).keys()


def test_kernels_are_compared_with_compiled_ones(tmp_path: Path) -> None:
    item = "kernel batched apply, tiny, fp32"
    record = run.run(gpu.CASE, out=tmp_path, settings=TINY | {"compiler": "eager"}, only=[item]).record
    assert record["failures"] == []
    assert record["rows"][0]["compiled_us"] > 0
    assert "step tiny, compiled" in gpu.CASE.items(run.Bench({**gpu.CASE.settings, **record["settings"]}))


def test_a_wrong_kernel_is_not_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = kernel_jobs.JOBS["factored apply"]

    def wrong(p: kernel_jobs.Problem, made: kernel_jobs.Made) -> kernel_jobs.Job:
        job = right(p, made)
        return replace(job, ours=lambda a, basis, e: job.plain(a, basis, e) * (1 + 1e-4))

    monkeypatch.setitem(kernel_jobs.JOBS, "factored apply", wrong)
    item = "kernel factored apply, tiny, fp32"
    record = run.run(gpu.CASE, out=tmp_path, settings=TINY, only=[item]).record
    assert record["rows"] == []
    assert "times plain PyTorch's" in record["failures"][0]["error"]


@pytest.mark.parametrize("name", list(kernel_jobs.JOBS))
@pytest.mark.parametrize("shape", list(gpu.ODD))
def test_every_job_takes_every_shape(name: str, shape: str) -> None:
    job = kernel_jobs.JOBS[name](gpu.ODD[shape], kernel_jobs.Made("cpu", torch.bfloat16, 0))
    assert kernel_jobs.error_ratio(job, 0) <= gpu.ALLOWED
