"""Files of other tools: what they are, and where each is read and written. Needs no torch until then.

| name | file | read by | written by |
|---|---|---|---|
| shift | ours | `spectra.shift.shift_file` | `spectra.shift.shift_file` |
| svdiff-pytorch | svdiff-pytorch 0.2.0, diffusers' PR 3107 | `svdiff.import_svdiff` | `svdiff.export_svdiff` |
| dome272, phymhan, svdiff-kohya | other implementations of SVDiff | `svdiff.import_svdiff` | |
| lora | PEFT, diffusers | `lora.read_lora` | `lora_export.write_lora` |
| kohya | kohya's scripts, ComfyUI, A1111; also LoHa and LoKr | `lora.read_lora` | `lora_export.write_lora` |
| difference | ComfyUI, A1111, LyCORIS | `lora.read_lora` | `difference.write_difference` |
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from pathlib import Path

from spectra.errors import FormatError
from spectra.io.safetensors_header import HeaderError, read_header
from spectra.shift.metadata import FORMAT

PICKLES = (".pt", ".pth", ".bin", ".ckpt")

FOREIGN_SUFFIXES = {
    "svdiff-pytorch": ".delta",
    "dome272": ".parametrizations.weight.0.delta",
    "phymhan": ".parametrizations.weight.0.eigenvalues_delta",
    "svdiff-kohya": ".org_module.parametrizations.weight.original",
}
"""What the keys of each implementation of SVDiff end in."""

SVDIFF_FILES = {"unet": "spectral_shifts.safetensors", "text_encoder": "spectral_shifts_te.safetensors"}
"""svdiff-pytorch's file of each component; it knows no other component."""

_CHANGE = re.compile(r"lora_|[._]lora\.|\.hada_|\.lokr_|\.(diff|diff_b|w_norm|b_norm)$")


def files_of(path: str | Path) -> list[Path]:
    """A file as it is; of a folder of svdiff-pytorch's, its files.

    Raises:
        FormatError: a folder without them.
    """
    path = Path(path)
    if not path.is_dir():
        return [path]
    found = [path / name for name in SVDIFF_FILES.values() if (path / name).is_file()]
    if not found:
        raise FormatError(f"{path}: a folder with none of {', '.join(SVDIFF_FILES.values())}; name a file")
    return found


def detect(path: str | Path) -> str:
    """What a file is, by its header: "shift", a name of `FOREIGN_SUFFIXES`, "pickle", or "lora" for every change.

    Raises:
        FormatError: it cannot be read, or is none of them.
    """
    path = Path(path)
    if not path.is_file():
        raise FormatError(f"{path}: no such file; check the path")
    if path.suffix in PICKLES:
        return "pickle"
    try:
        header = read_header(path)
    except (OSError, HeaderError) as error:
        raise FormatError(
            f"{path}: cannot be read as safetensors ({error}); check the path, or fetch it again"
        ) from error
    if header.metadata.get("format") == FORMAT:
        return "shift"
    kind = foreign_layout(header.tensors) or ("lora" if holds_changes(header.tensors) else "")
    if not kind:
        raise FormatError(
            f"{path}: neither a shift, nor one of {', '.join(FOREIGN_SUFFIXES)}, nor a LoRA (first key: "
            f"{next(iter(header.tensors), 'none')})"
        )
    return kind


def holds_changes(keys: Iterable[str]) -> bool:
    """Whether keys are those of a LoRA, LoHa, LoKr or full difference."""
    return any(_CHANGE.search(key) for key in keys)


def foreign_layout(keys: Collection[str]) -> str:
    """The implementation of SVDiff whose keys these are, or empty."""
    longest_first = sorted(FOREIGN_SUFFIXES, key=lambda name: -len(FOREIGN_SUFFIXES[name]))
    return next((name for name in longest_first if any(key.endswith(FOREIGN_SUFFIXES[name]) for key in keys)), "")
