"""Files of other tools: what they are, and where each is read and written. Needs no torch.

| name | file | read by | written by |
|---|---|---|---|
| shift | ours | `spectra.shift.shift_file` | `spectra.shift.shift_file` |
| state | a training's state, which holds a shift | `spectra.shift.shift_file` | |
| svdiff-pytorch | svdiff-pytorch 0.2.0, diffusers' PR 3107 | `svdiff.conversion` | `svdiff.conversion` |
| dome272, phymhan, svdiff-kohya | other implementations of SVDiff | `svdiff.conversion` | |
| lora | diffusers | `lora.reading` | `lora.writing` |
| peft | PEFT alone: a folder for each component | `lora.reading` | `lora.peft_folder` |
| kohya | kohya's scripts, ComfyUI, A1111; also LoHa and LoKr | `lora.reading` | `lora.writing` |
| difference | ComfyUI, A1111, LyCORIS | `lora.reading` | `full_difference` |
| embedding | diffusers, ComfyUI, A1111: a textual inversion | `embeddings` | `embeddings` |
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from pathlib import Path

from spectra.errors import FormatError
from spectra.io.dtypes import BYTES, FLOATS
from spectra.io.safetensors_header import Header, HeaderError, read_header
from spectra.shift.metadata import FORMAT, STATE_FORMAT

PICKLES = (".pt", ".pth", ".bin", ".ckpt")

SVDIFF_SUFFIXES = {
    "svdiff-pytorch": ".delta",
    "dome272": ".parametrizations.weight.0.delta",
    "phymhan": ".parametrizations.weight.0.eigenvalues_delta",
    "svdiff-kohya": ".org_module.parametrizations.weight.original",
}
"""What the keys of each implementation of SVDiff end in."""

SVDIFF_FILES = {"unet": "spectral_shifts.safetensors", "text_encoder": "spectral_shifts_te.safetensors"}
"""svdiff-pytorch's file of each component; it knows no other component."""

EMBEDDING_KEYS = ("clip_l", "clip_g", "t5xxl")
"""Keys of an embedding file for several text encoders; one for a single encoder has any key."""

_LORA_KEY = re.compile(r"lora_|[._]lora\.|\.hada_|\.lokr_|\.(diff|diff_b|w_norm|b_norm)$")


def files_of(path: str | Path) -> list[Path]:
    """The file itself, or the files in a folder of svdiff-pytorch's.

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


def file_kind(path: str | Path) -> str:
    """What a file is, by its header: "shift", "state" of a training, a name of `SVDIFF_SUFFIXES`, "pickle", "lora" for
    every change, or "embedding".

    Raises:
        FormatError: it cannot be read, or is none of them.
    """
    path = Path(path)
    if not path.is_file():
        raise FormatError(f"{path}: no such file; check the path")
    if path.suffix in PICKLES:
        return "pickle"
    header = header_of(path)
    if header.metadata.get("format") == FORMAT:
        return "shift"
    if header.metadata.get("format") == STATE_FORMAT:
        return "state"
    kind = svdiff_layout(header.tensors) or ("lora" if holds_lora(header.tensors) else "")
    if not kind and holds_embedding(header):
        kind = "embedding"
    if not kind:
        raise FormatError(
            f"{path}: neither a shift, nor one of {', '.join(SVDIFF_SUFFIXES)}, nor a LoRA, nor an embedding (first "
            f"key: {next(iter(header.tensors), 'none')})"
        )
    return kind


def holds_lora(keys: Iterable[str]) -> bool:
    """Whether keys are those of a LoRA, LoHa, LoKr or full difference."""
    return any(_LORA_KEY.search(key) for key in keys)


def holds_embedding(header: Header) -> bool:
    """Whether a file is a textual inversion: rows of token embeddings alone, of one text encoder or of several."""
    for key, tensor in header.tensors.items():
        if tensor.dtype not in FLOATS or len(tensor.shape) not in (1, 2) or 0 in tensor.shape:
            return False
        if key not in EMBEDDING_KEYS and (len(header.tensors) > 1 or key.rpartition(".")[2] in ("weight", "bias")):
            return False
    return bool(header.tensors)


def svdiff_layout(keys: Collection[str]) -> str:
    """The implementation of SVDiff whose keys these are, or empty."""
    found = [name for name, suffix in SVDIFF_SUFFIXES.items() if any(key.endswith(suffix) for key in keys)]
    return max(found, key=lambda name: len(SVDIFF_SUFFIXES[name]), default="")


def header_of(path: Path) -> Header:
    """The header of a safetensors file of another tool.

    Raises:
        FormatError: it cannot be read, is none, or has a dtype that is not known.
    """
    try:
        header = read_header(path)
    except (OSError, HeaderError) as error:
        raise FormatError(
            f"{path}: cannot be read as safetensors ({error}); check the path, or fetch it again"
        ) from error
    for key, stored in header.tensors.items():
        if stored.dtype not in BYTES:
            raise FormatError(f"{path}: {key} is in {stored.code}, which is not read; expected {', '.join(FLOATS)}")
    return header
