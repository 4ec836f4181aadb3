"""An audit of the Triton kernel without a GPU: compiled for four architectures, with every configuration.

A row is a use of it (forward or backward, say), an architecture, an element type and a configuration. Registers,
spills, shared memory and instructions are the compiler's; occupancy is predicted from them; the `projection_*` figures
come from a roofline and are no measurement.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from spectra.benchmarks.case import Bench, Case, Column, Goal, Row
from spectra.benchmarks.kernels.compiled import ARCHITECTURES, compiled
from spectra.benchmarks.kernels.uses import USES, candidates, signature
from spectra.kernels.configurations import CONFIGURATIONS, Configuration

DTYPES = ("bf16", "fp16")
"""Element types that it computes with."""


@dataclass(frozen=True)
class Entry:
    """One thing to compile."""

    use: str
    arch: str
    dtype: str
    configuration: Configuration

    @property
    def label(self) -> str:
        """The name of its row."""
        return "/".join((self.use, self.arch, self.dtype, self.configuration.label))


def entries(*, every: bool = False) -> list[Entry]:
    """Everything that the audit compiles: what is kept, or with `every` all that was tried."""
    return [
        Entry(name, arch, dtype, configuration)
        for name, use in USES.items()
        for arch in ARCHITECTURES
        for dtype in DTYPES
        for configuration in (candidates(use.width, arch) if every else CONFIGURATIONS[use.width, arch])
    ]


def audit(entry: Entry, *, flops: float = 800e12, bandwidth: float = 3.0e12) -> Row:
    """The row of one entry: the issue's fields, the widest load's bytes, and the projection.

    Args:
        entry: what to compile.
        flops: of the projection's device, FLOP/s.
        bandwidth: of it, byte/s.

    Raises:
        RuntimeError: it does not compile.
    """
    from spectra.kernels import triton_backend

    use, configuration = USES[entry.use], entry.configuration
    found = compiled(
        triton_backend.low_rank_apply,
        signature(use, entry.dtype, configuration),
        entry.arch,
        warps=configuration.warps,
        stages=configuration.stages,
    )
    row = {
        "item": entry.label,
        "kernel": entry.use,
        "arch": entry.arch,
        "dtype": entry.dtype,
        "config": entry.configuration.label,
        **asdict(found),
        "kept": entry.configuration in CONFIGURATIONS[use.width, entry.arch],
    }
    row["occupancy"] = round(found.occupancy, 3)
    return {**row, **projection(entry.use, flops=flops, bandwidth=bandwidth)}


def projection(use: str, *, flops: float, bandwidth: float) -> Row:
    """Roofline of one use on its layer: the longer of arithmetic and memory traffic. Not a measurement."""
    work, elements = USES[use].work()
    arithmetic, traffic = work / flops, 2 * elements / bandwidth
    return {
        "projection_us": round(1e6 * max(arithmetic, traffic), 2),
        "projection_bound": "arithmetic" if arithmetic > traffic else "memory",
    }


def _entries(bench: Bench) -> dict[str, Entry]:
    found: dict[str, Entry] = bench.once(
        "entries", lambda: {entry.label: entry for entry in entries(every=bool(bench.settings["candidates"]))}
    )
    return found


def _items(bench: Bench) -> list[str]:
    return list(_entries(bench))


def _measure(bench: Bench, item: str) -> Row:
    flops, bandwidth = float(bench.settings["tflops"]) * 1e12, float(bench.settings["tbytes"]) * 1e12
    return audit(_entries(bench)[item], flops=flops, bandwidth=bandwidth)


def _summarise(bench: Bench, rows: Sequence[Row]) -> Row:
    chosen = [row for row in rows if row["kept"]]
    return {
        "compiled": len(rows),
        "kept": len(chosen),
        "kept_spilling": sum(row["spills"] > 0 for row in chosen),
        "kept_too_large": sum(row["occupancy"] == 0 for row in chosen),
        "half_without_mma": sum(row["mma"] == 0 for row in chosen),
        "least_load_bytes": min((row["load_bytes"] for row in chosen), default=0),
        "least_occupancy": min((row["occupancy"] for row in chosen), default=0.0),
    }


CASE = Case(
    name="kernels",
    title="resources of the Triton kernel, compiled for GPUs without one",
    key="item",
    rows="kernels",
    items=_items,
    measure=_measure,
    summarise=_summarise,
    settings={"candidates": False, "tflops": 800.0, "tbytes": 3.0},
    columns=(
        Column("item", "use/architecture/type/configuration"),
        Column("registers", "regs"),
        Column("spills"),
        Column("shared_bytes", "shared"),
        Column("mma"),
        Column("load_bytes", "load"),
        Column("occupancy", "occ.", ".2f"),
        Column("projection_us", "projection, us", ".1f"),
    ),
    goals=(
        Goal("kept_spilling", "==", 0),
        Goal("kept_too_large", "==", 0),
        Goal("half_without_mma", "==", 0),
    ),
    needs=("triton",),
)
