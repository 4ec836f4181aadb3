"""`spectra convert`: shifts of other implementations and embeddings to ours, and ours to what other tools read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import typer

from spectra.cli import output
from spectra.cli.convert_view import FORMATS, convert_rows, next_step
from spectra.cli.options import Precision, argument, command, force_option, json_option, output_option, variant_option
from spectra.cli.tables import facts
from spectra.cli.tool_check import NAMES, check, check_tools, show_check
from spectra.errors import BaseError, FormatError
from spectra.settings import SHARE, setting

if TYPE_CHECKING:
    from spectra.cli.options import FilePrecision
    from spectra.convert.svdiff.conversion import Fit
    from spectra.shift.shift import SpectralShift


_LORAS = ("lora", "peft", "kohya")

_DTYPES = {"shift": ("float32", "float16"), "svdiff-pytorch": ("float32",)}

_MUCH_LOST = 0.3


@dataclass(frozen=True)
class _Options:
    files: tuple[Path, ...] = argument(
        "A shift; or files of svdiff-pytorch, diffusers' PR 3107, dome272, phymhan or svdiff-kohya; or an "
        "embedding (textual inversion); or a training's state.safetensors, for the shift in it. With --check alone: an "
        "exported file, and the shift it was made of.",
        "FILE...",
    )
    out: Path | None = output_option(
        "File to write; a folder for svdiff-pytorch, peft, and several words.", default=None, metavar="PATH"
    )
    to: Literal["shift", "svdiff-pytorch", "lora", "peft", "kohya", "difference", "embedding"] = setting(
        "shift", "Format to write.", default_text="a shift, if another implementation's is read"
    )
    base: str = setting(
        "",
        "Base that it was trained on: folder, .safetensors file or hub id; spectra-base is the embedded one.",
        default_text="the embedded one, if a shift is read",
    )
    rank: int | None = setting(
        None,
        "Highest rank of a LoRA, for each weight.",
        least=1,
        default_text="exact: directions and outer terms together",
    )
    error: float | None = setting(
        None, "Relative error of Delta W that a LoRA may have, in place of --rank, such as 0.05; 0 for none.", **SHARE
    )
    dtype: Precision = setting("float32", "Precision of what is written.")
    component: tuple[str, ...] = setting(
        (), "Component of the base, where names in a file fit several; repeatable.", metavar="NAME"
    )
    variant: str | None = variant_option()
    word: str = setting(
        "", "Word of prompts that an embedding is read for.", default_text="the one that the file tells"
    )
    allow_pickle: bool = setting(False, "Read .pt and .bin files; of them, tensors only.")
    check: tuple[str, ...] = setting(
        (),
        f"What a tool would load of the written file, ignore and get wrong; of FILE, without --out. One of "
        f"{', '.join(NAMES)}, all; repeatable.",
        metavar="TOOL",
        default_text="none",
    )
    force: bool = force_option()
    json: bool = json_option()


@command(
    _Options,
    "spectra convert fox.safetensors --to lora -o pytorch_lora_weights.safetensors",
    "spectra convert dog.safetensors --base ./sd15 --to kohya --error 0.05 -o dog-lora.safetensors",
    "spectra convert dog.safetensors --base ./sd15 --to embedding -o sks.safetensors",
    "spectra convert dog-lora.safetensors --base ./sd15 --check all",
    "spectra convert spectral_shifts.safetensors spectral_shifts_te.safetensors --base ./sd15 -o dog.safetensors",
)
def convert(options: _Options) -> None:
    """Converts shifts from and to the files of other tools, and says what that costs."""
    from spectra.bases.embedded import NAME
    from spectra.convert.file_kinds import file_kind, files_of
    from spectra.io.atomic_writes import check_output

    check_tools(options.check)
    if options.check and options.out is None:
        return _check_alone(options)
    files = [file for given in options.files for file in files_of(given)]
    kinds = {file_kind(file) for file in files}
    _check_usage(files, kinds, options)
    if options.out is None:
        raise typer.BadParameter("say where to write", param_hint="--out")
    check_output(options.out, force=options.force)
    shift, read = _read(files, kinds, options)
    found: dict[str, Any] = {
        "files": [str(file) for file in files],
        "base": options.base or NAME,
        "read": read,
        "written": {"format": options.to, "path": str(options.out), **_write(shift, options.out, options)},
    }
    if options.check:
        found["check"] = check(options.out, options.check, shift, options.base, options.variant)

    def human() -> Iterator[output.Part]:
        yield facts(convert_rows(found))
        if options.check:
            yield ""
            yield from show_check(found["check"], of_shift=True)
        yield next_step(shift, found["written"])

    output.result(found, json=options.json, human=human)
    if options.to == "lora" and "unet" in read["components"]:
        output.say("ComfyUI and A1111 do not read a UNet's attention in this layout: for them --to kohya")
    if options.rank is not None and found["written"]["error"] > _MUCH_LOST:
        output.say(
            "the shift is spread over more directions than that: --error 0.1 takes as many as it needs, "
            "--to difference is exact"
        )


def _check_alone(options: _Options) -> None:
    """Says what tools make of an exported file; against a shift, if one is given too."""
    from spectra.convert.file_kinds import file_kind
    from spectra.shift.shift_file import read_shift

    shifts = [file for file in options.files if file.is_file() and file_kind(file) == "shift"]
    exported = [file for file in options.files if file not in shifts]
    if len(exported) != 1 or len(shifts) > 1:
        raise typer.BadParameter("--check without --out takes one exported file, and its shift", param_hint="FILE...")
    shift = read_shift(shifts[0]) if shifts else None
    found = check(exported[0], options.check, shift, options.base, options.variant)
    told = {"file": str(exported[0]), "base": options.base, "check": found}
    output.result(told, json=options.json, human=lambda: show_check(found, of_shift=shift is not None))


def _check_usage(files: list[Path], kinds: set[str], options: _Options) -> None:
    """Wrong usage, before anything is read."""
    to, chosen = options.to, (options.rank is not None) + (options.error is not None)
    if "lora" in kinds:
        raise FormatError(f"{files[0]}: a LoRA or full differences, no shift; spectra extract finds the closest shift")
    if not kinds.isdisjoint(("shift", "state")) and len(files) > 1:
        raise typer.BadParameter("one shift at a time; spectra merge makes one of several", param_hint="FILE...")
    if "embedding" in kinds and len(files) > 1:
        raise typer.BadParameter(
            "one embedding at a time; spectra merge makes one shift of several", param_hint="FILE..."
        )
    if options.word and "embedding" not in kinds:
        raise typer.BadParameter("only an embedding is read for a word", param_hint="--word")
    if "shift" in kinds and to == "shift":
        raise typer.BadParameter("a shift is read; say what to write", param_hint="--to")
    if options.check and to not in ("lora", "peft", "kohya", "difference"):
        raise typer.BadParameter("what is written is none that these tools read as a change", param_hint="--check")
    if to in _LORAS and chosen > 1:
        raise typer.BadParameter("a LoRA takes a --rank or an --error, not both", param_hint="--rank")
    if to not in _LORAS and chosen:
        raise typer.BadParameter("only a LoRA has a rank, or an error to choose", param_hint="--rank")
    if options.dtype not in _DTYPES.get(to, (options.dtype,)):
        raise typer.BadParameter(f"{FORMATS[to]} is not stored in {options.dtype}", param_hint="--dtype")
    if kinds.isdisjoint(("shift", "state")) and not options.base:
        raise FormatError(
            f"{files[0]}: it does not say which base it was trained on, and means nothing without: give --base"
        )


def _read(files: list[Path], kinds: set[str], options: _Options) -> tuple[SpectralShift, dict[str, Any]]:
    """The shift in the files, and what is reported of it."""
    if "shift" in kinds:
        from spectra.shift.shift_file import read_shift

        shift, about = read_shift(files[0]), {"format": "shift"}
    elif "state" in kinds:
        from spectra.shift.shift_file import read_kept_shift

        shift, about = read_kept_shift(files[0]), {"format": "a training's state"}
    elif "embedding" in kinds:
        from spectra.convert.embeddings import read_embedding

        shift = read_embedding(files[0], base=options.base, word=options.word, variant=options.variant)
        about = {"format": "embedding"}
    else:
        from spectra.convert.svdiff.conversion import import_svdiff

        shift, fit = import_svdiff(
            files,
            base=options.base,
            components=options.component,
            variant=options.variant,
            allow_pickle=options.allow_pickle,
            progress=output.progress(),
        )
        about = {"format": fit.layout, **_fit(fit)}
    components = sorted({name.partition(".")[0] for name in shift})
    terms = sum(each.rank for each in shift.outer.values())
    words = [each.text for each in shift.words.values()]
    told = {"weights": len(shift), "floats": shift.floats, "outer": terms, "words": words, "components": components}
    return shift, {**about, **told}


def _write(shift: SpectralShift, out: Path, options: _Options) -> dict[str, Any]:
    """Writes the shift, and returns what is reported of that."""
    force, dtype = options.force, options.dtype
    common: dict[str, Any] = {
        "base": options.base,
        "variant": options.variant,
        "force": force,
        "progress": output.progress(),
    }
    if options.to == "shift":
        from spectra.shift.shift_file import write_shift

        written = write_shift(shift, out, dtype=cast("FilePrecision", dtype), force=force)  # of `_DTYPES`
        return {"bytes": written, "weights": len(shift)}
    if options.to == "svdiff-pytorch":
        from spectra.convert.svdiff.conversion import export_svdiff

        fit = export_svdiff(shift, out, **common)
        return {"bytes": sum(file.stat().st_size for file in out.iterdir()), "weights": len(shift), **_fit(fit)}
    if options.to == "embedding":
        from spectra.convert.embeddings import write_embeddings

        embeddings = write_embeddings(shift, out, dtype=dtype, **common)
        return {**asdict(embeddings), "weights": len(shift.words)}
    if options.to == "difference":
        from spectra.convert.full_difference import write_difference

        return asdict(write_difference(shift, out, dtype=dtype, **common))
    from spectra.convert.embeddings import KIND
    from spectra.convert.lora.peft_folder import write_peft_folder
    from spectra.convert.lora.writing import write_lora
    from spectra.io.atomic_writes import check_output

    words = out.with_name(f"{out.stem}-words")
    if shift.words:
        check_output(words, force=force, folder_of=KIND)
    size: dict[str, Any] = {"rank": options.rank, "error": options.error, "dtype": dtype}
    if options.to == "peft":
        done = write_peft_folder(shift, out, **size, **common)
    else:
        done = write_lora(shift, out, layout="peft" if options.to == "lora" else "kohya", **size, **common)
    found = {**asdict(done), "weights": len(done.ranks)}
    return {**found, **_write_words(shift, words, dtype, common)} if shift.words else found


def _write_words(shift: SpectralShift, folder: Path, dtype: Precision, common: dict[str, Any]) -> dict[str, Any]:
    """Writes the vectors of special words beside a LoRA, which cannot hold them, and returns what is reported."""
    from spectra.convert.embeddings import write_embeddings

    try:
        done = write_embeddings(shift, folder, dtype=dtype, **common)
    except BaseError as error:  # a base without tokenizers does not stop the LoRA
        output.say(f"the vectors of special words are not written: {error}")
        return {"words": None}
    return {"words": str(folder), "vectors": done.vectors}


def _fit(fit: Fit) -> dict[str, Any]:
    values = asdict(fit)
    del values["layout"]
    return values | {"worst": {"weight": fit.worst[0], "error": fit.worst[1]}}
