"""The tokenizers of a base, without its models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from spectra.bases.pipeline import BaseLocation, find_base, local_folder
from spectra.bases.single_file import configuration_folder
from spectra.errors import BaseError
from spectra.naming.target_subsets import TEXT_ENCODERS


def text_tokenizer(part: Any) -> Any:
    """A pipeline's tokenizer, which some have in a processor that takes pictures too (FLUX.2 dev)."""
    return getattr(part, "tokenizer", part)


def base_tokenizers(base: str | BaseLocation = "") -> dict[str, Any]:
    """The tokenizer of each text encoder of a base, by the encoder's component name.

    Args:
        base: as `find_base` takes it. A single file has its tokenizers in the folder of its configuration, beside it.

    Raises:
        BaseError: the base is missing, has no tokenizer, or one that cannot be loaded.
    """
    from transformers import AutoTokenizer

    location = find_base(base)
    if location.kind == "file":
        path = Path(location.target)
        folder = configuration_folder(path, location.components_from) or path.with_suffix("")
    else:
        folder = local_folder(location)
    found = {}
    for encoder in TEXT_ENCODERS:
        path = folder / encoder.replace("text_encoder", "tokenizer")
        if path.is_dir():
            try:
                found[encoder] = AutoTokenizer.from_pretrained(path, local_files_only=True)
            except Exception as error:  # transformers and tokenizers raise kinds of their own
                raise BaseError(
                    f"{path}: not a tokenizer ({error}); the folder may be damaged or incomplete"
                ) from error
    if not found:
        raise BaseError(
            f"{location.name}: no tokenizer in {folder}, which has to tell the tokens of a special word; give a "
            "diffusers folder" + (", or put its tokenizer folders there" if location.kind == "file" else "")
        )
    return found
