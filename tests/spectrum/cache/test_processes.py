"""Two processes really fill one cache at once, and then evict what the other is using."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from spectra.spectrum.cache.spectrum_cache import SpectrumCache

COUNT = 40

FILLER = f"""
import sys
from pathlib import Path
import torch
from spectra.spectrum.cache.spectrum_cache import SpectrumCache

torch.set_num_threads(1)
cache = SpectrumCache(Path(sys.argv[1]))
given = {{str(seed): torch.randn(40, 90, generator=torch.Generator().manual_seed(seed)) for seed in range({COUNT})}}
exact = {{name: torch.linalg.svdvals(weight.double()) for name, weight in given.items()}}

def fill():
    for name, spectrum in cache.spectra(given).items():
        error = (spectrum.sigma - exact[name]).abs().max()
        if error > 1e-10:
            sys.exit(f"{{name}}: sigma is wrong by {{error}}")

def say(what):
    print(what, flush=True)
    sys.stdin.readline()

say("ready")
fill()
say(cache.usage.misses)
for _ in range(6):
    fill()
    cache.gc(0)
say("evicted")
"""


def test_two_processes_fill_and_evict_one_cache(tmp_path: Path) -> None:
    # Warnings are errors: neither may see a damaged entry, or fail to store one.
    command = [sys.executable, "-W", "error", "-c", FILLER, str(tmp_path)]
    pipe = subprocess.PIPE
    running = [subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True) for _ in range(2)]

    def hear() -> list[str]:
        said = [process.stdout.readline().strip() for process in running if process.stdout]
        if not all(said):
            raise AssertionError([process.communicate()[1] for process in running])
        return said

    def go() -> None:
        for process in running:
            if process.stdin:
                process.stdin.write("\n")
                process.stdin.flush()

    try:
        assert hear() == ["ready", "ready"]
        go()
        misses = sum(map(int, hear()))
        cache = SpectrumCache(tmp_path)
        assert len(cache.entries()) == COUNT
        assert COUNT <= misses <= 2 * COUNT
        assert cache.verify().damaged == {}
        assert list(tmp_path.rglob(".*")) == []
        go()
        assert hear() == ["evicted", "evicted"]
        go()
        for process in running:
            _, errors = process.communicate(timeout=60)
            assert (process.returncode, errors) == (0, "")
        assert not (tmp_path / "damaged").exists()
    finally:
        for process in running:
            process.kill()
