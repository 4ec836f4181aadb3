"""Draws docs/pictures/likeness-and-drift.svg from every recorded result of `spectra bench quality`.

python docs/scripts/likeness_and_drift.py
"""

from __future__ import annotations

from pathlib import Path

from spectra.benchmarks.results import Results, results_folder
from spectra.benchmarks.trainings import pareto
from spectra.benchmarks.trainings.quality_table import table
from spectra.plots import style

PICTURE = Path(__file__).parents[1] / "pictures" / "likeness-and-drift.svg"

if __name__ == "__main__":
    rows = Results("quality", results_folder()).recorded_rows("item")
    style.write(lambda: pareto.draw_likeness_and_drift(table(rows)), PICTURE, force=True)
