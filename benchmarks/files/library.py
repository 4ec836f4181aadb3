"""Whole processes of the commands that look after shifts, on shifts of Stable Diffusion 1.5's whole UNet.

Seconds are those of `spectra ...` from start to exit, imports included, with the files in the system's page cache; peak
memory is the process's own. The shifts are random, and so are the singular values, which are read from a spectrum cache
with entries of real size. The folder holds `folder` names of `many` different files. Shifts with terms have one outer
term on each matrix and no deltas, in float16; `merge-terms` keeps the best four of a weight.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spectra.benchmarks.case import Bench, Case, Column, Goal, Row
from spectra.benchmarks.files.storage import sd15_metadata, sd15_unet
from spectra.benchmarks.timing import spread
from spectra.errors import SpectraError

if TYPE_CHECKING:
    from spectra.families import Target

_SPECTRA = [sys.executable, "-c", "import sys; from spectra.cli.app import main; sys.exit(main())"]

_MEASURE = """
import json, resource, subprocess, sys, time
start = time.perf_counter()
done = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
seconds = time.perf_counter() - start
used = resource.getrusage(resource.RUSAGE_CHILDREN)
unit = 1 if sys.platform == "darwin" else 1024
print(json.dumps({"code": done.returncode, "said": done.stderr, "seconds": seconds,
                  "cpu": used.ru_utime + used.ru_stime, "bytes": used.ru_maxrss * unit}))
"""
"""Run by a fresh interpreter: a child's peak memory is never told to be less than its parent's when it began."""

COMMANDS: Mapping[str, Callable[[_Library], list[str]]] = {
    "inspect": lambda library: ["inspect", library.file(0)],
    "diff": lambda library: ["diff", library.file(0), library.file(1)],
    "merge": lambda library: ["merge", library.file(0), library.file(1), "-o", library.out, "--force"],
    "adjust": lambda library: ["adjust", library.file(0), "--keep", "64", "-o", library.out, "--force"],
    "verify": lambda library: ["verify", library.file(0)],
    "inspect-folder": lambda library: ["inspect", library.folder()],
    "merge-many": lambda library: ["merge", *library.many(), "-o", library.out, "--force"],
    "merge-terms": lambda library: ["merge", *library.with_terms(), "--outer-rank", "4", "-o", library.out, "--force"],
}
"""What is measured: by the name of the row, the arguments of `spectra`."""

_ONE = ("inspect", "diff", "merge", "adjust", "verify")


@dataclass(frozen=True)
class _Library:
    """Shifts in a temporary folder, each made when it is first asked for, and the spectra of their base."""

    bench: Bench
    root: Path
    targets: Sequence[Target]

    @property
    def out(self) -> str:
        return str(self.root / "out.safetensors")

    def file(self, number: int) -> str:
        """A shift of random deltas."""
        import numpy as np

        from spectra.shift.shift import SpectralShift
        from spectra.shift.shift_file import write_shift

        path = self.root / "many" / f"{number:05}.safetensors"
        if not path.exists():
            rng = np.random.default_rng((self.bench.seed, number))
            deltas = {t.name: (0.05 * rng.standard_normal(t.delta_length)).astype(np.float32) for t in self.targets}
            metadata = sd15_metadata(list(deltas), str(self.bench.settings["target"]))
            ndims = {target.name: target.weight.ndim for target in self.targets}
            write_shift(SpectralShift(deltas, replace(metadata, ndims=ndims)), path)
        return str(path)

    def many(self) -> list[str]:
        """Files of different shifts, as many as the setting `many` says."""
        return [self.file(number) for number in range(self.bench.integer("many"))]

    def with_terms(self) -> list[str]:
        """Files of different shifts with one outer term on each matrix, as many as the setting `many` says."""
        return [self._terms_file(number) for number in range(self.bench.integer("many"))]

    def _terms_file(self, number: int) -> str:
        import numpy as np

        from spectra.shift.outer_terms import OuterTerms
        from spectra.shift.shift import SpectralShift
        from spectra.shift.shift_file import write_shift

        path = self.root / "terms" / f"{number:05}.safetensors"
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            rng = np.random.default_rng((self.bench.seed, number))
            matrices = [target for target in self.targets if target.weight.ndim > 1]
            outer = {}
            for target in matrices:
                rows, columns, *kernel = target.weight.shape
                sizes = rows, columns, *([math.prod(kernel)] if math.prod(kernel) > 1 else [])
                outer[target.name] = OuterTerms(*(rng.standard_normal((1, n), np.float32) * 0.1 for n in sizes))
            metadata = sd15_metadata(list(outer), str(self.bench.settings["target"]))
            ndims = {target.name: target.weight.ndim for target in matrices}
            deltas = {target.name: np.zeros(target.delta_length) for target in matrices}
            shift = SpectralShift(deltas, replace(metadata, ndims=ndims), outer=outer)
            write_shift(shift, path, dtype="float16")
        return str(path)

    def folder(self) -> str:
        """A folder of those shifts under as many names as the setting `folder` says."""
        files = self.many()
        folder = self.root / "folder"
        folder.mkdir(exist_ok=True)
        for number in range(self.bench.integer("folder")):
            if not (name := folder / f"{number:05}.safetensors").exists():
                os.link(files[number % len(files)], name)
        return str(folder)

    def fill_cache(self) -> None:
        """Entries for all matrices, with descending singular values and, of the right size, nothing else."""
        import torch

        from spectra.spectrum.cache.entry import encode
        from spectra.spectrum.cache.store import Store
        from spectra.spectrum.spectrum import Spectrum

        store = Store(self.root / "cache")
        for target in self.targets:
            if target.weight.ndim > 1:
                rank = target.delta_length
                spectrum = Spectrum(
                    side="left",
                    basis=torch.zeros(rank, rank),
                    sigma=torch.linspace(2, 0.01, rank, dtype=torch.float64),
                    tail=torch.zeros(0, target.weight.numel() // rank),
                    shape=tuple(target.weight.shape),
                )
                fingerprint = hashlib.sha256(target.name.encode()).hexdigest()
                store.write(fingerprint, encode(spectrum, fingerprint))


def _library(bench: Bench) -> _Library:
    from spectra.families import targets

    root = Path(tempfile.mkdtemp(prefix="spectra-library-"))
    library = _Library(bench, root, targets(sd15_unet(), str(bench.settings["target"])))
    weakref.finalize(library, shutil.rmtree, root, ignore_errors=True)
    library.fill_cache()
    return library


def _measure(bench: Bench, item: str) -> Row:
    library: _Library = bench.once("library", lambda: _library(bench))
    arguments = COMMANDS[item](library)
    environment = {**os.environ, "SPECTRA_CACHE": str(library.root / "cache")}
    _run(arguments, environment)
    runs = [_run(arguments, environment) for _ in range(bench.integer("repetitions"))]
    return {
        "command": item,
        "seconds": spread([run["seconds"] for run in runs]).row(),
        "cpu_s": spread([run["cpu"] for run in runs]).row(),
        "peak_mb": round(max(run["bytes"] for run in runs) / 1e6, 1),
    }


def _run(arguments: Sequence[str], environment: Mapping[str, str]) -> dict[str, Any]:
    command = [sys.executable, "-c", _MEASURE, *_SPECTRA, *arguments]
    found: dict[str, Any] = json.loads(subprocess.run(command, env=environment, check=True, capture_output=True).stdout)
    if found["code"] != 0:
        raise SpectraError(f"spectra {arguments[0]} ended with {found['code']}: {found['said']}")
    return found


def _summarise(bench: Bench, rows: Sequence[Row]) -> Row:
    seconds = {row["command"]: row["seconds"]["median"] for row in rows}
    peak = {row["command"]: row["peak_mb"] for row in rows}
    summary = {
        "one_or_two_files_seconds": max((seconds[name] for name in _ONE if name in seconds), default=None),
        "folder_seconds": seconds.get("inspect-folder"),
        "many_seconds": seconds.get("merge-many"),
        "many_peak_mb": peak.get("merge-many"),
        "terms_seconds": seconds.get("merge-terms"),
        "terms_peak_mb": peak.get("merge-terms"),
    }
    return {name: value for name, value in summary.items() if value is not None}


CASE = Case(
    name="library",
    title="inspecting, comparing, merging and verifying SD 1.5-sized shifts",
    key="command",
    items=lambda bench: list(COMMANDS),
    measure=_measure,
    summarise=_summarise,
    settings={"many": 1000, "folder": 5000, "repetitions": 3, "seed": 0, "target": "unet"},
    columns=(
        Column("command"),
        Column("seconds", "seconds", ".2f"),
        Column("cpu_s", "CPU, s", ".2f"),
        Column("peak_mb", "peak, MB", ".0f"),
    ),
    goals=(
        Goal("one_or_two_files_seconds", "<=", 0.6, under={"target": ("unet",)}),
        Goal("folder_seconds", "<=", 5.0, under={"target": ("unet",), "folder": (5000,)}),
        Goal("many_seconds", "<=", 20.0, under={"target": ("unet",), "many": (1000,)}),
        Goal("many_peak_mb", "<=", 300.0, under={"target": ("unet",), "many": (1000,)}),
    ),
)
