"""What `spectra plan` shows: JSON values, and for people a table that ends with the command to train."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from spectra.cli import output
from spectra.cli.help import option_names
from spectra.cli.tables import facts, plain, plural, readable
from spectra.settings import declared_settings
from spectra.training.config import TrainConfig, defaults

if TYPE_CHECKING:
    from rich.table import Table

    from spectra.planning.fitting import Fit
    from spectra.planning.memory import Memory
    from spectra.planning.plan import Plan
    from spectra.planning.request import PlanRequest

_PARTS = ("spectra", "trained", "gradients", "optimizer")


def as_dict(found: Plan, fitting: Fit | None) -> dict[str, Any]:
    """The plan as JSON values; `estimated` names those that are not counted."""
    request = found.request
    config = request.config
    return {
        "base": found.base,
        "family": request.family or None,
        "pipeline": found.pipeline,
        **{"targets": found.targets, "preset": config.preset, "directions": config.directions, "outer": config.outer},
        **{"dtype": found.dtype, "quantize": config.quantize or None},
        **{"resolution": found.resolution, "batch": config.batch, "samples": request.samples},
        "assumed_tokens": found.assumed_tokens or None,
        "gradient_checkpointing": found.checkpointing,
        "weights": sum(found.layers.values()),
        "layers": dict(found.layers),
        **output.values_of(found, "floats", "file_bytes"),
        "spectra": output.values_of(found.spectra, "bytes", "flops", "seconds", "cores"),
        "memory": _memory(found.memory),
        "phases": found.memory.phases(checkpointing=found.checkpointing),
        "main_memory": found.memory.base,
        **output.values_of(found, "blocks", "computed", "largest", "total"),
        "vram": request.vram or None,
        "fits": found.fits,
        "fit": None if fitting is None else _fit(fitting),
        "estimated": list(found.estimated),
        "next": train_command(fitting.request if fitting else request),
    }


def _memory(memory: Memory) -> dict[str, Any]:
    def sums(name: str, checkpointing: bool) -> dict[str, int]:
        return {
            f"other{name}": memory.other(checkpointing=checkpointing),
            f"total{name}": memory.step(checkpointing=checkpointing),
        }

    return {
        "weights": dict(memory.weights),
        **output.values_of(memory, *_PARTS, "activations"),
        **sums("", False),
        "activations_checkpointed": memory.checkpointed,
        **sums("_checkpointed", True),
        "encoding": dict(memory.encoding),
        "drawing": dict(memory.drawing),
    }


def _fit(fitting: Fit) -> dict[str, Any]:
    request = fitting.request
    return {
        "fits": fitting.fits,
        "changes": list(fitting.changes),
        "total": fitting.total,
        "largest": fitting.largest,
        "memory": _memory(fitting.memory),
        "precision": request.config.precision,
        "quantize": request.config.quantize or None,
        "gradient_checkpointing": fitting.checkpointing,
        **output.values_of(request.config, "batch", "directions"),
    }


def train_command(request: PlanRequest) -> str:
    """The command that trains so, with what a plan need not know left to fill in."""
    config, declared = request.config, declared_settings(TrainConfig)
    usual = defaults(config.base, config.preset).as_dict()
    words = ["spectra", "train"]
    for name, value in config.as_dict().items():
        if value == usual[name] and not (name in ("base", "preset") and value != getattr(TrainConfig(), name)):
            continue
        option = option_names(name, declared[name]).split()[0]
        if isinstance(value, bool):
            words.append(option if value else option.replace("--", "--no-", 1))
        else:
            words += [option, str(value)]
    text = shlex.join(words)
    if config.base and not config.images:
        text += ' --images DIR --prompt "a photo of a [V1] dog"'
        text += ' --class-prompt "a photo of a dog"' if config.prior_weight else ""
    return text


def show(found: Plan, fitting: Fit | None) -> Iterator[output.Part]:
    """The plan for people."""
    request, config = found.request, found.request.config
    yield plain(f"{found.base}: {found.pipeline}", "bold")
    assumed = f"of {found.assumed_tokens} tokens each, which is assumed: they have as many as they need"
    samples = f"batch {config.batch}" + (f" and {config.batch} of the class" if config.prior_weight else "")
    yield facts(
        (
            ("step", f"{found.resolution} px, {samples}, {_precision(found)}"),
            *([("prompts", assumed)] if found.assumed_tokens else []),
            (
                "trained",
                f"{found.targets}: {', '.join(plural(n, _SINGULAR[kind]) for kind, n in found.layers.items())}",
            ),
            ("floats", f"{_about('floats', found)}{found.floats:,}"),
            ("file", f"{_about('file_bytes', found)}{readable(found.file_bytes)} ({config.file_dtype})"),
            ("spectra", _spectra(found)),
        )
    )
    yield ""
    yield _table(found.memory)
    yield facts(
        (
            ("phases", _phases(found)),
            ("main memory", f"{readable(found.memory.base)}, the whole base; on a CPU alone beside a step's own"),
        )
    )
    yield f"~ estimated; the rest is counted, on {found.computed} of {found.blocks} blocks: the others are like those"
    yield ""
    if fitting is not None:
        yield from _verdict(found, fitting)
    yield plain("Next", "bold")
    yield f"  {train_command(fitting.request if fitting else request)}"


_SINGULAR = {"matrices": "linear layer", "convolutions": "convolution", "embeddings": "embedding", "vectors": "norm"}


def _about(name: str, found: Plan) -> str:
    return "~" if name in found.estimated else ""


def _precision(found: Plan) -> str:
    quantize = found.request.config.quantize
    return found.dtype + (f", denoiser in {quantize}" if quantize else "")


def _phases(found: Plan) -> str:
    """The most of each phase; of what is counted for encoding and drawing, the component that takes it."""
    memory = found.memory
    by_component = {"encoding": memory.encoding, "drawing": memory.drawing}

    def told(phase: str, size: int) -> str:
        parts = by_component.get(phase)
        who = f" ({max(parts, key=parts.__getitem__)})" if parts else ""
        return f"{phase} ~{readable(size)}{who}"

    return ", ".join(told(*each) for each in memory.phases(checkpointing=found.checkpointing).items())


def _spectra(found: Plan) -> str:
    cost = found.spectra
    if not cost.flops:
        return "none to decompose"
    minutes = cost.seconds / 60
    took = f"{minutes:.0f} min" if minutes >= 1.5 else f"{max(cost.seconds, 1):.0f} s"
    size = _about("spectra.bytes", found) + readable(cost.bytes)
    return f"{size} in the cache, once; ~{took} on {plural(cost.cores, 'core')}"


def _table(memory: Memory) -> Table:
    """Memory by part, without and with gradient checkpointing."""
    from rich.table import Table

    made = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    made.add_column("memory of a step")
    for heading in ("plain", "checkpointed"):
        made.add_column(heading, justify="right")

    def add(name: str, size: int, checkpointed: int | None = None, mark: str = "") -> None:
        made.add_row(name, *(mark + readable(each) for each in (size, size if checkpointed is None else checkpointed)))

    for name, size in memory.weights.items():
        add(f"weights of {name}", size)
    if memory.spectra:
        add("singular vectors", memory.spectra)
    add("shift", memory.trained)
    add("gradients", memory.gradients)
    add("optimizer", memory.optimizer)
    add("activations", memory.activations, memory.checkpointed)
    add("CUDA, buffers", memory.other(checkpointing=False), memory.other(checkpointing=True), "~")
    made.add_section()
    add("total", memory.step(checkpointing=False), memory.step(checkpointing=True), "~")
    return made


def _verdict(found: Plan, fitting: Fit) -> Iterator[output.Part]:
    card = readable(found.request.vram)
    if found.fits:
        yield plain(f"Fits {card}", "bold green")
    elif fitting.fits:
        yield plain(
            f"{found.largest.capitalize()} does not fit {card} as it is; all does, in ~{readable(fitting.total)}, with",
            "bold yellow",
        )
        for change in fitting.changes:
            yield f"  {change}"
    else:
        least = f"{fitting.largest} takes ~{readable(fitting.total)}"
        yield plain(
            f"Does not fit {card}: {least}, {'even with' if fitting.changes else 'whatever is set'}", "bold red"
        )
        for change in fitting.changes:
            yield f"  {change}"
