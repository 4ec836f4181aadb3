"""`spectra convert`: shifts of other implementations to ours, and ours to LoRA, full differences and svdiff-pytorch."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from spectra.cli import output
from spectra.cli.quiet import quiet_libraries
from spectra.cli.sizes import readable

if TYPE_CHECKING:
    from rich.console import Console

    from spectra.convert.svdiff.conversion import Fit
    from spectra.shift.shift import SpectralShift

_EXAMPLE = """Examples:

spectra convert fox.safetensors --to lora --rank 8 -o pytorch_lora_weights.safetensors

spectra convert dog.safetensors --base ./sd15 --to kohya --error 0.05 -o dog-lora.safetensors

spectra convert spectral_shifts.safetensors spectral_shifts_te.safetensors --base ./sd15 -o dog.safetensors"""

Target = Literal["shift", "svdiff-pytorch", "lora", "kohya", "difference"]
Stored = Literal["float32", "float16", "bfloat16"]

_SAYS = {
    "shift": "a shift",
    "svdiff-pytorch": "a folder for svdiff-pytorch and diffusers' PR 3107",
    "lora": "a LoRA for PEFT and diffusers",
    "kohya": "a LoRA for kohya's scripts, ComfyUI and A1111",
    "difference": "full differences for ComfyUI, A1111 and LyCORIS",
}

_DTYPES = {"shift": ("float32", "float16"), "svdiff-pytorch": ("float32",)}

_MUCH_LOST, _WORTH_TELLING = 0.3, 1e-6


def register(app: typer.Typer) -> None:
    """Adds the command."""

    @app.command(epilog=_EXAMPLE)
    def convert(
        files: Annotated[
            list[Path],
            typer.Argument(
                metavar="FILE...",
                help="A shift; or files of svdiff-pytorch, diffusers' PR 3107, dome272, phymhan or svdiff-kohya.",
                show_default=False,
            ),
        ],
        out: Annotated[
            Path,
            typer.Option(
                "--out", "-o", metavar="PATH", help="To write; a folder for svdiff-pytorch.", show_default=False
            ),
        ],
        to: Annotated[
            Target | None,
            typer.Option(help="What to write; a shift, if another implementation's is read.", show_default=False),
        ] = None,
        base: Annotated[
            str | None,
            typer.Option(
                help="That it was trained on: folder, .safetensors file or hub id; spectra-base is the embedded one, "
                "and the default where a shift is read.",
                show_default=False,
            ),
        ] = None,
        rank: Annotated[
            int | None,
            typer.Option(min=1, help="Of a LoRA: at most so many directions per weight.", show_default=False),
        ] = None,
        error: Annotated[
            float | None,
            typer.Option(
                min=0,
                max=1,
                help="Of a LoRA, in place of --rank: relative error of Delta W, such as 0.05; 0 for none.",
                show_default=False,
            ),
        ] = None,
        dtype: Annotated[Stored, typer.Option(help="Of what is written.")] = "float32",
        component: Annotated[
            list[str] | None,
            typer.Option(metavar="NAME", help="Of the base, where names in a file fit several; repeatable."),
        ] = None,
        variant: Annotated[
            str | None, typer.Option(help="Of the base's weight files, such as fp16.", show_default=False)
        ] = None,
        allow_pickle: Annotated[
            bool, typer.Option("--allow-pickle", help="Read .pt and .bin files; of them, tensors only.")
        ] = False,
        force: Annotated[bool, typer.Option("--force", help="Replace an earlier output.")] = False,
        json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    ) -> None:
        """Converts shifts from and to the files of other tools, and says what that costs."""
        from spectra.bases.embedded import NAME
        from spectra.convert.file_kinds import detect, files_of
        from spectra.errors import FormatError
        from spectra.io.atomic_writes import check_output

        files = [file for given in files for file in files_of(given)]
        kinds = {detect(file) for file in files}
        _check_usage(files, kinds, to, rank, error, dtype)
        check_output(out, force=force)
        if base is None and kinds != {"shift"}:
            raise FormatError(
                f"{files[0]}: it does not say which base it was trained on, and means nothing without: give --base"
            )
        quiet_libraries()
        name = base or ""
        found: dict[str, Any] = {"files": [str(file) for file in files], "base": name or NAME}
        if kinds == {"shift"}:
            from spectra.shift.shift_file import read_shift

            shift, target = read_shift(files[0]), to or "shift"
            found["read"] = {"format": "shift", **_counted(shift)}
        else:
            from spectra.convert.svdiff.conversion import import_svdiff

            shift, fit = import_svdiff(
                files,
                base=name,
                components=component or (),
                variant=variant,
                allow_pickle=allow_pickle,
                progress=output.progress(),
            )
            target = to or "shift"
            found["read"] = {"format": fit.layout, **_counted(shift), **_fit(fit)}
        options = {"base": name, "variant": variant, "force": force, "progress": output.progress()}
        found["written"] = {"format": target, "path": str(out)}
        found["written"] |= _write(shift, out, target, rank, error, dtype, options)
        output.result(found, json=json, human=lambda console: _show(console, found))
        if rank is not None and found["written"]["error"] > _MUCH_LOST:
            output.say(
                "the shift is spread over more directions than that: --error 0.1 takes as many as it needs, "
                "--to difference is exact"
            )


def _check_usage(
    files: list[Path], kinds: set[str], to: str | None, rank: int | None, error: float | None, dtype: str
) -> None:
    """Wrong usage, before anything is read."""
    from spectra.errors import FormatError

    if "lora" in kinds:
        raise FormatError(f"{files[0]}: a LoRA or full differences, no shift; spectra extract finds the closest shift")
    if "shift" in kinds and len(files) > 1:
        raise typer.BadParameter("one shift at a time; spectra merge makes one of several", param_hint="FILE...")
    if kinds == {"shift"} and to in (None, "shift"):
        raise typer.BadParameter("a shift is read; say what to write", param_hint="--to")
    if to in ("lora", "kohya") and (rank is None) == (error is None):
        raise typer.BadParameter("a LoRA takes a --rank or an --error, one of the two", param_hint="--rank")
    if to not in ("lora", "kohya") and (rank is not None or error is not None):
        raise typer.BadParameter("only a LoRA has a rank, or an error to choose", param_hint="--rank")
    if dtype not in _DTYPES.get(to or "shift", (dtype,)):
        raise typer.BadParameter(f"{to or 'a shift'} is not stored in {dtype}", param_hint="--dtype")


def _write(
    shift: SpectralShift,
    out: Path,
    target: str,
    rank: int | None,
    error: float | None,
    dtype: Stored,
    options: dict[str, Any],
) -> dict[str, Any]:
    """Writes the shift and returns what it came to."""
    if target == "shift":
        from spectra.shift.shift_file import write_shift

        stored: Literal["float32", "float16"] = "float16" if dtype == "float16" else "float32"
        return {"bytes": write_shift(shift, out, dtype=stored, force=options["force"]), "weights": len(shift)}
    if target == "svdiff-pytorch":
        from spectra.convert.svdiff.conversion import export_svdiff

        fit = export_svdiff(shift, out, **options)
        return {"bytes": sum(file.stat().st_size for file in out.iterdir()), "weights": len(shift), **_fit(fit)}
    if target == "difference":
        from spectra.convert.full_difference import write_difference

        return asdict(write_difference(shift, out, dtype=dtype, **options))
    from spectra.convert.lora.writing import write_lora

    layout: Literal["peft", "kohya"] = "peft" if target == "lora" else "kohya"
    done = asdict(write_lora(shift, out, layout=layout, rank=rank, error=error, dtype=dtype, **options))
    return done | {"weights": len(done["ranks"])}


def _counted(shift: SpectralShift) -> dict[str, Any]:
    return {
        "weights": len(shift),
        "floats": shift.floats,
        "components": sorted({name.partition(".")[0] for name in shift}),
    }


def _fit(fit: Fit) -> dict[str, Any]:
    said = asdict(fit)
    del said["layout"]
    return said | {"worst": {"weight": fit.worst[0], "error": fit.worst[1]}}


def _show(console: Console, found: dict[str, Any]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for key, text in _rows(found):
        table.add_row(key, Text(text))
    console.print(table)


def _rows(found: dict[str, Any]) -> list[tuple[str, str]]:
    read, written = found["read"], found["written"]
    what = f"{read['format']}, {read['weights']:,} weights of {' and '.join(read['components'])}"
    rows = [("read", "\n".join([*found["files"], what]))]
    if "reshape" in read:
        rows += _fit_rows(read)
    rows.append(("written", f"{written['path']}\n{_SAYS[written['format']]}, {readable(written['bytes'])}"))
    if "ranks" in written:
        ranks = sorted(written["ranks"].values())
        spread = f"rank {ranks[0]} to {ranks[-1]}, median {ranks[len(ranks) // 2]}"
        rows.append(("weights", f"{written['weights']:,} of {read['weights']:,}; {spread}"))
        rows.append(("error", f"{_percent(written['error'])} of Delta W in the weights that a LoRA can hold"))
    else:
        rows.append(("weights", f"{written['weights']:,} of {read['weights']:,}"))
    if "reshape" in written:
        rows += _fit_rows(written)
    if written.get("rounding", 0) > _WORTH_TELLING:
        rows.append(("rounding", f"{_percent(written['rounding'])} of Delta W, by the file's dtype"))
    for each in written.get("left_out", ()):
        rows.append(("left out", f"{each['weights']:,} {each['why']}; {_percent(each['energy'])} of ||Delta W||^2"))
    return rows


def _fit_rows(fit: dict[str, Any]) -> list[tuple[str, str]]:
    worst = fit["worst"]
    rows = [("error", f"{_percent(fit['error'])} of Delta W\n{_percent(worst['error'])} at most, {worst['weight']}")]
    if fit["reshape"] == "channels-last":
        sure = f"{fit['telling']} lengths say so" if fit["telling"] else "so its keys say, no length tells"
        rows.append(("reshape", f"convolutions as (co kh kw) x ci, {sure}: the closest shift is taken"))
    return rows + [("not taken", f"{count:,} {what}") for what, count in fit["beside"].items()]


def _percent(value: float) -> str:
    return f"{100 * value:.3g} %" if value else "0 %"
