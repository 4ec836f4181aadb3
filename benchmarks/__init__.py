"""What `spectra bench` runs: declared cases (`case.py`) in one frame (`run.py`).

Installed as `spectra.benchmarks`. `results/` keeps every figure with its machine, versions, commit and
command, one JSON object a line; it is not installed.
"""
