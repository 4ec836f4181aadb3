"""A special word as an embedding file (textual inversion) of diffusers, ComfyUI and A1111, and such a file as a shift.

It holds the word's whole rows of the token embedding, the base's with what the shift adds, in the order of its tokens:

    {"<sks>": [n, dim]}                                             a base with one text encoder
    {"clip_l": [n, dim], "clip_g": [n, dim], "t5xxl": [n, dim]}     with several

ComfyUI and A1111 call the word by the file's name. In diffusers it is the key: in lower case and angle brackets, since
`load_textual_inversion` refuses what the tokenizer knows ("[V1]", on the embedded base), drops all rows but one of a
key with capitals, and cuts other words in which a key without brackets occurs ("desks").
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spectra.bases.pipeline import find_base
from spectra.bases.tokenizers import base_tokenizers
from spectra.bases.weight_files import FileWeights, base_weights
from spectra.compatibility.base_check import delta_length
from spectra.compatibility.rounded_bases import Fingerprints
from spectra.convert.file_kinds import EMBEDDING_KEYS, header_of, holds_embedding
from spectra.convert.projection import AnySpectrum
from spectra.convert.shifted_base import ShiftedBase, StoredDtype, file_metadata, write_rounded
from spectra.convert.weight_change import WeightShift
from spectra.errors import FormatError, MismatchError
from spectra.families.special_word import word_tokens
from spectra.io.atomic_writes import atomic_folder, atomic_write, check_output
from spectra.io.tensor_files import create_file, read_rows
from spectra.naming.target_subsets import component_of
from spectra.progress import SILENT, Progress
from spectra.shift.metadata import FINGERPRINT_DIGITS, ROUNDED, ShiftMetadata
from spectra.shift.shift import SpectralShift
from spectra.shift.word_vectors import WordVectors
from spectra.spectrum.cache.spectrum_cache import SpectrumCache
from spectra.version import versions

_SUFFIX = ".safetensors"
_TABLE = re.compile(r"\.(token_embedding|shared)$")
_WORD = "spectra_word"
"""Entry of a file's metadata: the word as it stands in prompts."""

KIND = "spectra convert --to embedding"


@dataclass(frozen=True)
class WrittenEmbeddings:
    """What was written: bytes, and how many vectors each word has."""

    bytes: int
    vectors: Mapping[str, int]


def write_embeddings(
    shift: SpectralShift,
    path: str | Path,
    *,
    base: str = "",
    variant: str | None = None,
    dtype: StoredDtype = "float32",
    force: bool = False,
    cache: SpectrumCache | None = None,
    progress: Progress = SILENT,
) -> WrittenEmbeddings:
    """Write a shift's special word as an embedding file, or those of several subjects into a folder, a file for each.

    Args:
        path: a file that ends in .safetensors, or a folder.
        base: that the shift was trained on, as `load_pipeline` takes it, with its tokenizers.

    Raises:
        FormatError: no special word in the shift, or several where a file is asked for.
        MismatchError: the shift was trained on another base.
        OutputError: `path` exists and `force` is not given, or cannot be written.
    """
    path = Path(path)
    words = list(dict.fromkeys(word for each in shift.words.values() for word in each.text.split(", ") if word))
    names = {file_name(word): word for word in words}
    one_file = path.suffix == _SUFFIX
    check_output(path, force=force, folder_of="" if one_file else KIND)
    if not words:
        raise FormatError("this shift has no special word with a vector of its own; train it with --word")
    if one_file and len(words) > 1:
        raise FormatError(f"a file holds one word, and this shift has {', '.join(words)}; name a folder for them")
    if len(names) < len(words):
        raise FormatError(f"the words {', '.join(words)} would have files of one name; write each from its own shift")
    shifted = ShiftedBase(shift, base, variant=variant, cache=cache, progress=progress)
    tokenizers = _tokenizers(base, shifted.weights)
    keys = _keys(tokenizers)
    rows = {
        word: {table: _rows(shifted, shift, table, each, word) for table, each in tokenizers.items()} for word in words
    }
    size = 0
    with atomic_write(path, force=force) if one_file else atomic_folder(path, KIND, force=force) as target:
        for name, word in names.items():
            file = target if one_file else target / f"{name}{_SUFFIX}"
            tensors = {keys.get(table, f"<{name}>"): each for table, each in rows[word].items()}
            shapes = {key: (dtype, tuple(each.shape)) for key, each in tensors.items()}
            stored = create_file(file, shapes, {**file_metadata(shift.metadata), _WORD: word})
            for key, each in tensors.items():
                write_rounded(stored[key], each, f"{word}: {key}")
            size += file.stat().st_size
    return WrittenEmbeddings(size, {word: max(map(len, each.values())) for word, each in rows.items()})


def _rows(shifted: ShiftedBase, shift: SpectralShift, table: str, tokenizer: Any, word: str) -> Tensor:
    """The rows of a word as the shift makes them, float64 `[n, dim]`; the base's, if it leaves them."""
    tokens: list[int] = tokenizer(word, add_special_tokens=False).input_ids
    if table in shift.words and not set(tokens) <= set(shift.words[table].ids):
        raise MismatchError(
            f"{table}: the base's tokenizer reads {word!r} as tokens {tokens}, and the shift has "
            f"vectors for {list(shift.words[table].ids)}; give the base that it was trained on, with its tokenizers"
        )

    def changed(part: WeightShift, weight: Tensor, spectrum: AnySpectrum | None) -> Tensor:
        return part.applied(weight, spectrum)[tokens].to(torch.float64)

    if table in shift:
        return shifted.visit(changed, "reading", [table])[table]
    return shifted.weights[table][tokens].to(torch.float64)


def read_embedding(path: str | Path, *, base: str = "", word: str = "", variant: str | None = None) -> SpectralShift:
    """An embedding file as a shift: what its rows add to those of a word of the base.

    A shift changes tokens that there are, where a textual inversion makes new ones. So it takes a word that the base's
    tokenizers read as one token for each row.

    Args:
        path: a safetensors file of diffusers, ComfyUI, A1111 or kohya's scripts.
        base: that the embedding was trained on, with its tokenizers.
        word: as prompts will have it; by default the one that the file tells, if we wrote it.

    Raises:
        FormatError: no embedding file, or no word to go with it.
        MismatchError: the base has no such token embedding, or reads the word as another number of tokens.
    """
    header = header_of(Path(path))
    if not holds_embedding(header):
        raise FormatError(f"{path}: no embedding file; expected one tensor [n, dim], or {', '.join(EMBEDDING_KEYS)}")
    word = word or header.metadata.get(_WORD, "")
    if not word:
        raise FormatError(
            f"{path}: it does not tell its word in prompts; give a rare one, of a token for each row (--word)"
        )
    weights = base_weights(base, variant=variant)
    tokenizers = _tokenizers(base, weights)
    words: dict[str, WordVectors] = {}
    for key, stored in header.tensors.items():
        rows = read_rows(stored).to(torch.float64).reshape(-1, stored.shape[-1])
        if not bool(torch.isfinite(rows).all()):
            raise FormatError(f"{path}: {key} has values that are not finite; the file is damaged")
        table = _table_of(key, rows.shape[1], weights, tokenizers)
        tokens = word_tokens(tokenizers[table], word)
        row_of = dict(zip(tokens, rows, strict=False))
        if len(tokens) != len(rows) or not torch.equal(torch.stack([row_of[token] for token in tokens]), rows):
            raise MismatchError(
                f"{path}: {key} has {len(rows)} rows, and {table} reads {word!r} as {len(tokens)} tokens, "
                f"{len(set(tokens))} of them different; give a word of {len(rows)} different tokens"
            )
        added = torch.stack(list(row_of.values())) - weights[table][list(row_of)].to(torch.float64)
        if added.any():
            words[table] = WordVectors(tuple(row_of), added.numpy().astype(np.float32), word)
    if not words:
        raise FormatError(f"{path}: its rows are those that {word!r} has in the base already: there is nothing to read")
    return _shift_of_words(words, weights, find_base(base).name)


def _shift_of_words(words: Mapping[str, WordVectors], weights: FileWeights, base: str) -> SpectralShift:
    """A shift of these vectors alone."""
    prints = {name: Fingerprints(weights, name, weights.dtype(name)) for name in words}
    metadata = ShiftMetadata(
        base,
        {name: each.digits()[:FINGERPRINT_DIGITS] for name, each in prints.items()},
        base_dtype=weights.dtype(next(iter(words))),
        ndims=dict.fromkeys(words, 2),
        rounded={dtype: {name: each.rounded()[dtype] for name, each in prints.items()} for dtype in ROUNDED},
        versions=versions(),
    )
    deltas = {name: np.zeros(delta_length(weights.shape(name)), np.float32) for name in words}
    return SpectralShift(deltas, metadata, words=words)


def _tokenizers(base: str, weights: FileWeights) -> dict[str, Any]:
    """The tokenizer of each text encoder of a base, by the name of its token embedding's weight; CLIP's come first."""
    by_component = base_tokenizers(base)
    tables = [name for name in weights if _TABLE.search(name) and component_of(name) in by_component]
    return {name: by_component[component_of(name)] for name in sorted(tables, key=lambda name: (_is_t5(name), name))}


def _keys(tables: Collection[str]) -> dict[str, str]:
    """The key of each token embedding in an embedding file; none if there is only one, whose key is the word's."""
    if len(tables) == 1:
        return {}
    clip = dict(zip((name for name in tables if not _is_t5(name)), EMBEDDING_KEYS, strict=False))
    return clip | {name: EMBEDDING_KEYS[-1] for name in tables if _is_t5(name)}


def _is_t5(table: str) -> bool:
    return table.endswith(".shared")


def _table_of(key: str, dim: int, weights: FileWeights, tables: Collection[str]) -> str:
    """The token embedding that a file's rows `[n, dim]` belong to: by their key, or else by their length."""
    meant = [name for name, known in _keys(tables).items() if known == key] or list(tables)
    fitting = [name for name in meant if weights.shape(name)[1] == dim]
    if len(fitting) != 1:
        lengths = ", ".join(f"{weights.shape(name)[1]} ({name})" for name in meant)
        raise MismatchError(f"{key} has rows of {dim} values, and the base's are of {lengths}; give the base it is for")
    return fitting[0]


def file_name(word: str) -> str:
    """What a word's file is called, and its key between brackets: its letters, digits and dashes, in lower case."""
    return re.sub(r"[^\w-]", "", word).lower() or "word"
