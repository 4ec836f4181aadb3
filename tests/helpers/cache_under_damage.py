"""Processes decompose, read, evict and verify one spectrum cache while its entries are damaged under them.

    python tests/helpers/cache_under_damage.py --processes 16 --seconds 60         which is `make contention`

No wrong spectrum is ever used, nobody waits for ever, and nothing is left over.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"

import torch

from spectra.errors import CacheWarning
from spectra.spectrum.cache.spectrum_cache import SpectrumCache
from spectra.spectrum.decomposition import decompose
from spectra.spectrum.fingerprint import fingerprint
from spectra.spectrum.spectrum import Spectrum

WEIGHTS = 24
DIRECTIONS = 6
DAMAGES_PER_SECOND = 50
PATIENCE = 60.0
"""Seconds after the end that a process may still take for what it has begun."""


class Known:
    """The weights, and what is right."""

    def __init__(self) -> None:
        made = [torch.randn(30, 50, generator=torch.Generator().manual_seed(seed)) for seed in range(WEIGHTS)]
        self.weights = {str(number): weight for number, weight in enumerate(made)}
        self.spectra = {name: decompose(weight) for name, weight in self.weights.items()}
        self.digits = {name: fingerprint(weight) for name, weight in self.weights.items()}

    def same(self, name: str, found: Spectrum) -> bool:
        """Whether a spectrum is the weight's, bit for bit."""
        right = self.spectra[name]
        return all(torch.equal(getattr(found, part), getattr(right, part)) for part in ("basis", "sigma", "tail"))

    def leads(self, name: str, left: torch.Tensor, sigma: torch.Tensor, right: torch.Tensor) -> bool:
        """Whether these are the weight's leading directions, as well as float32 says."""
        exact = self.spectra[name].sigma[: len(sigma)]
        product = self.weights[name].double() @ right.double()
        return bool((sigma - exact).abs().max() < 1e-5 and (product - left.double() * sigma).abs().max() < 1e-4)


def use(root: Path, known: Known, rng: random.Random, until: float) -> dict[str, int]:
    """Use the cache in every way; returns how often, and how many results were wrong."""
    cache = SpectrumCache(root)
    counts = {"used": 0, "wrong": 0}

    def whole(name: str) -> bool:
        return known.same(name, cache.spectrum(known.weights[name]))

    def several(name: str) -> bool:
        names = rng.sample(sorted(known.weights), 5)
        found = cache.spectra({each: known.weights[each] for each in names})
        return all(known.same(each, spectrum) for each, spectrum in found.items())

    def leading(name: str) -> bool:
        count = rng.randint(1, DIRECTIONS)
        found = cache.leading({name: known.weights[name]}, count)[name]
        return known.leads(name, found.left, found.sigma, found.right)

    def by_digits(name: str) -> bool:
        found = cache.find(known.digits[name][:16])
        return found is None or known.same(name, found)

    def sigma(name: str) -> bool:
        found = cache.sigma(known.digits[name])
        return found is None or torch.equal(torch.from_numpy(found), known.spectra[name].sigma)

    def vectors(name: str) -> bool:
        found = cache.leading_vectors(known.digits[name], 1)
        return found is None or known.leads(name, *(torch.from_numpy(each.copy()) for each in found))

    def look_after(name: str) -> bool:
        rng.choice((cache.entries, cache.verify, lambda: cache.gc(rng.choice((0, 10**5, 10**9)))))()
        return True

    ways: list[Callable[[str], bool]] = [whole, whole, several, leading, leading, by_digits, sigma, vectors, look_after]
    while time.monotonic() < until:
        counts["used"] += 1
        counts["wrong"] += not rng.choice(ways)(rng.choice(sorted(known.weights)))
    return counts


def damage(root: Path, rng: random.Random, until: float) -> dict[str, int]:
    """Flip bytes of entries where they lie, cut them off, replace and delete them."""
    count = 0
    while time.monotonic() < until:
        time.sleep(1 / DAMAGES_PER_SECOND)
        entries = list(root.glob("*v1/??/*.safetensors"))
        if not entries:
            continue
        path = rng.choice(entries)
        try:
            how = rng.randrange(5)
            if how < 2:
                with path.open("r+b") as file:
                    file.seek(rng.randrange(path.stat().st_size))
                    file.write(rng.randbytes(4))
            elif how == 2:
                os.truncate(path, rng.randrange(path.stat().st_size))
            elif how == 3:
                path.unlink()
            else:
                path.write_bytes(rng.randbytes(100))
            count += 1
        except (OSError, ValueError):  # gone meanwhile, or empty
            continue
    return {"damages": count}


def started(work: Callable[[], dict[str, int]], report: Path) -> int:
    """A fork that does some work and reports what came of it."""
    process = os.fork()
    if process:
        return process
    code = 70
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", CacheWarning)
            report.write_text(json.dumps(work()))
        code = 0
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        os._exit(code)


def wait(processes: list[int], until: float) -> int:
    """Wait for all; returns how many failed or had to be killed."""
    failed, waiting = 0, list(processes)
    while waiting:
        for process in list(waiting):
            done, status = os.waitpid(process, os.WNOHANG)
            if not done and time.monotonic() > until:
                os.kill(process, signal.SIGKILL)
                done, status = os.waitpid(process, 0)
                print(f"a process did not come to an end within {PATIENCE:.0f} s")
            if done:
                waiting.remove(process)
                failed += status != 0
        time.sleep(0.05)
    return failed


def main() -> int:
    """Let them all work, and print what came of it; 1 if something is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=60.0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    known = Known()
    with tempfile.TemporaryDirectory() as folder:
        root, until = Path(folder) / "cache", time.monotonic() + given.seconds
        reports = [Path(folder) / str(number) for number in range(given.processes + 1)]
        rngs = [random.Random(number) for number in range(given.processes + 1)]
        works: list[Callable[[], dict[str, int]]] = [
            lambda rng=rng: use(root, known, rng, until)
            for rng in rngs[1:]  # type: ignore[misc]
        ]
        works.insert(0, lambda: damage(root, rngs[0], until))
        processes = [started(work, report) for work, report in zip(works, reports, strict=True)]
        failed = wait(processes, until + PATIENCE)
        total: dict[str, int] = {}
        for report in reports:
            for name, count in json.loads(report.read_text()).items() if report.exists() else ():
                total[name] = total.get(name, 0) + count
        left = [path for path in root.rglob("*") if path.name.startswith(".") or path.name == "lock"]
        SpectrumCache(root).verify()
        sound = SpectrumCache(root).verify()
        print(f"{given.processes} processes, {given.seconds:g} s: {total}; {failed} failed, {len(left)} left over")
    return int(bool(failed or left or sound.damaged or total.get("wrong", 1) or not total.get("damages")))


if __name__ == "__main__":
    sys.exit(main())
