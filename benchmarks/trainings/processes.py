"""A step of one training in several processes, against one process: seconds of CPU time, on one thread each.

Each process holds two trainings of the embedded base: one that all take together, and one of its own with as many
samples. They take a step of either in turns, so that both are slowed alike.

    ratio    CPU seconds of a step together, summed over the processes, over those of each one's own step
    whole    the same over one process's step with all samples, which the first process takes between the others
    bytes    of gradients that a step sums
"""

from __future__ import annotations

import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spectra.benchmarks.case import Bench, Case, Column, Goal, Row

if TYPE_CHECKING:
    from spectra.training.processes.group import Processes
    from spectra.training.run.trainer import Training


def _items(bench: Bench) -> list[str]:
    return ["2"]


def _measure(bench: Bench, item: str) -> Row:
    count = int(item)
    with socket.socket() as free, tempfile.TemporaryDirectory() as folder:
        free.bind(("127.0.0.1", 0))
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": item}
        free.close()
        command = [sys.executable, "-m", __name__, folder, json.dumps(dict(bench.settings))]
        ranks = ({"RANK": str(n), "LOCAL_RANK": str(n), "OMP_NUM_THREADS": "1"} for n in range(count))
        started = [subprocess.Popen(command, env={**os.environ, **place, **own}, cwd=folder) for own in ranks]
        if codes := [code for each in started if (code := each.wait())]:
            raise RuntimeError(f"a process ended with exit code {codes[0]}")
        told = [json.loads((Path(folder) / f"{n}.json").read_text()) for n in range(count)]
    together, own = (
        [sum(steps) for steps in zip(*(each[kind] for each in told), strict=True)] for kind in ("together", "own")
    )
    medians = {kind: statistics.median(values) for kind, values in (("together", together), ("own", own))}
    whole = statistics.median(told[0]["whole"])
    return {
        "processes": item,
        "together_cpu_s": round(medians["together"], 4),
        "own_cpu_s": round(medians["own"], 4),
        "whole_cpu_s": round(whole, 4),
        "ratio": round(medians["together"] / medians["own"], 4),
        "whole": round(medians["together"] / whole, 4),
        "bytes": told[0]["bytes"],
    }


def _training(folder: Path, settings: Any, samples: int, processes: Processes) -> Training:
    """A training of an embedded subject, ready for its first step."""
    from spectra.training.config import make_config
    from spectra.training.run.concepts import ConceptSpec
    from spectra.training.run.inputs import validate_inputs
    from spectra.training.run.trainer import Training

    common = {"class_images": str(folder / "class"), "preset": settings["preset"], "seed": settings["seed"]}
    inputs = validate_inputs(ConceptSpec("", make_config({**common, "batch": samples}), folder / "out"))
    training = Training([inputs], device="cpu", processes=processes)
    training.prepare()
    return training


def _in_process(folder: Path, settings: Any) -> None:
    """One of the processes: takes the steps, and writes what they cost it."""
    from spectra.bases.embedded.subjects import SUBJECTS, instance_pictures
    from spectra.training.processes.group import Processes
    from spectra.training.processes.together import together

    with together("cpu") as processes:
        if processes.first:
            (folder / "class").mkdir()
            # Class pictures need not be drawn for this: any will do.
            for number, picture in enumerate(instance_pictures(SUBJECTS[-1], count=8)):
                picture.save(folder / "class" / f"{number}.png")
        processes.wait()
        batch = settings["batch"]
        trainings = {
            "together": _training(folder, settings, batch * processes.count, processes),
            "own": _training(folder, settings, batch, Processes()),
            "whole": _training(folder, settings, batch * processes.count, Processes()),
        }
        seconds: dict[str, list[float]] = {kind: [] for kind in trainings}
        for repetition in range(-1, settings["repetitions"]):
            for kind in list(trainings)[:: 1 if repetition % 2 else -1]:
                processes.wait()  # so that the other processes do the same at the same time
                began = time.process_time()
                trainings[kind].loop.advance()
                if repetition >= 0:  # the first makes what is made for good
                    seconds[kind].append(time.process_time() - began)
        told = {**seconds, "bytes": processes.reduced}
        (folder / f"{processes.number}.json").write_text(json.dumps(told))
        for training in trainings.values():
            training.close()


def _summarise(bench: Bench, rows: Sequence[Row]) -> Row:
    return {f"{name}_{row['processes']}": row[name] for row in rows for name in ("ratio", "whole", "bytes")}


CASE = Case(
    name="processes",
    title="a step of one training that processes share, in CPU time",
    key="processes",
    items=_items,
    measure=_measure,
    summarise=_summarise,
    settings={"batch": 4, "preset": "balanced", "repetitions": 21, "seed": 0},
    columns=(
        Column("processes"),
        Column("together_cpu_s", "together, CPU s", ".3f"),
        Column("own_cpu_s", "each its own, CPU s", ".3f"),
        Column("ratio", form=".3f"),
        Column("whole_cpu_s", "one with all samples, CPU s", ".3f"),
        Column("whole", "over that", ".3f"),
        Column("bytes"),
    ),
    goals=(Goal("ratio_2", "<=", 1.15),),
)

if __name__ == "__main__":
    _in_process(Path(sys.argv[1]), json.loads(sys.argv[2]))
