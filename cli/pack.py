"""`spectra pack`: shift files at a fifth of their size, for a stated error of Delta W. Needs no torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spectra.cli import output
from spectra.cli.next_steps import following
from spectra.cli.options import argument, command, force_option, json_option, output_option
from spectra.cli.tables import percent, short_names, table
from spectra.errors import InputError
from spectra.settings import setting

_GROUPS = {"matrices": "matrices", "vectors": "1-D weights", "words": "words"}


@dataclass(frozen=True)
class _Options:
    files: tuple[Path, ...] = argument("Shift files.", "FILE")
    out: Path = output_option("Output file; for several files, a folder.", metavar="PATH")
    error: float = setting(
        0.01,
        "Error of Delta W that is allowed, for all matrices with their outer terms, for all 1-D weights and for words: "
        "0.01 is 1 %.",
    )
    force: bool = force_option("outputs that exist")
    json: bool = json_option()


@command(
    _Options,
    "spectra pack fox.safetensors -o fox-small.safetensors",
    "spectra pack shifts/*.safetensors -o packed --error 0.03",
)
def pack(options: _Options) -> None:
    """Packs shifts: values are rounded to a stated error and entropy-coded. Every command reads the result."""
    from spectra.io.atomic_writes import check_output
    from spectra.progress import working
    from spectra.shift.shift_file import read_shift, write_shift
    from spectra.shift.shift_header import read_shift_header

    targets = _targets(options.files, options.out)
    for file in options.files:
        if read_shift_header(file).precision == "packed":
            raise InputError(f"{file} is packed already, and errors would add up; pack what it was made from")
    for target in targets:
        if target.resolve() in {file.resolve() for file in options.files}:
            raise InputError(
                f"{target} would replace what it is packed from, which packing rounds; choose another place"
            )
        check_output(target, force=options.force)
    progress, rows = output.progress(), []
    with working(progress, "packing", len(options.files)):
        for file, target in zip(options.files, targets, strict=True):
            shift = read_shift(file)
            size = write_shift(shift, target, error=options.error, force=options.force)
            header = read_shift_header(target)
            recipe: Any = header.metadata.recipe
            row = {"file": str(file), "packed": str(target), "floats": shift.floats}
            row |= {"outer_terms": sum(header.outer.values()), "words": list(header.words.values())}
            row |= {"bytes": file.stat().st_size, "packed_bytes": size, "errors": recipe["errors"]}
            rows.append(row)
            progress.advance(1, file.name)
    output.result({"error": options.error, "files": rows}, json=options.json, human=lambda: _show(rows, targets))


def _targets(files: Sequence[Path], out: Path) -> list[Path]:
    """Where each file goes."""
    if len(files) == 1 and not out.is_dir():
        return [out]
    if out.is_file():
        raise InputError(f"{out} is a file; for several files -o names a folder")
    names = [file.name for file in files]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise InputError(f"two of the files are called {twice}; pack them into different folders")
    return [out / name for name in names]


def _show(rows: Sequence[dict[str, Any]], targets: Sequence[Path]) -> Iterator[output.Part]:
    lines = [
        (
            name,
            f"{row['bytes']:,}",
            f"{row['packed_bytes']:,}",
            percent(row["packed_bytes"] / row["bytes"], 0),
            f"{8 * row['packed_bytes'] / row['floats']:.2f}",
            percent(max(row["errors"].values()), 2),
        )
        for name, row in zip(short_names(targets), rows, strict=True)
    ]
    yield table("packed", ("bytes", "after", "", "bits/float", "error"), lines)
    for name, row in zip(short_names(targets), rows, strict=True):
        if row["outer_terms"] or row["words"]:
            words = "".join(f", the word {word!r}" for word in row["words"])
            errors = ", ".join(
                f"{_GROUPS[group]} {percent(error, 2)}" for group, error in row["errors"].items() if error
            )
            yield f"{name}: {row['outer_terms']} outer terms{words}; error of {errors}"
    yield f"in {targets[0].parent}"
    yield following("spectra", "verify", *map(str, targets[:1]))
