"""A LoRA in folders for PEFT alone, one for each component, since PEFT adapts one model at a time.

`PeftModel.from_pretrained(pipe.unet, "dog-peft/unet")` reads `adapter_config.json` and `adapter_model.safetensors`. The
modules have the names of the models that it is given; text encoders those of transformers 5.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, Unpack

from spectra.bases.weight_files import base_weights
from spectra.convert.lora.keys import METADATA_KEY
from spectra.convert.lora.writing import LoraOptions, WrittenLora, write_lora
from spectra.convert.module_names import live_path
from spectra.io.atomic_writes import atomic_folder, check_output
from spectra.io.safetensors_header import read_header
from spectra.io.tensor_files import create_file, read_rows, write_rows
from spectra.naming.target_subsets import component_of, path_of, weight_name
from spectra.progress import SILENT, Progress
from spectra.shift.shift import SpectralShift
from spectra.spectrum.cache.spectrum_cache import SpectrumCache

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
"""What PEFT looks for in a folder."""

KIND = "spectra convert --to peft"


def write_peft_folder(
    shift: SpectralShift,
    folder: str | Path,
    *,
    base: str = "",
    variant: str | None = None,
    force: bool = False,
    cache: SpectrumCache | None = None,
    progress: Progress = SILENT,
    **options: Unpack[LoraOptions],
) -> WrittenLora:
    """Write the best LoRA of a shift for PEFT alone, each component into a folder of its name.

    Arguments and errors are those of `write_lora`, whose layout is "peft"; `folder` holds the components' folders.
    """
    check_output(folder, force=force, folder_of=KIND)
    with atomic_folder(folder, KIND, force=force) as temporary:
        whole = temporary / "whole.safetensors"
        done = write_lora(shift, whole, base=base, variant=variant, cache=cache, progress=progress, **options)
        header = read_header(whole)
        config: dict[str, Any] = json.loads(header.metadata[METADATA_KEY])
        names, size = base_weights(base, variant=variant).keys(), 0
        for component in sorted({component_of(key) for key in header.tensors}):
            place = temporary / component
            place.mkdir()
            keys = {
                f"base_model.model.{live_path(weight_name(component, path_of(key)), names)}": stored
                for key, stored in header.tensors.items()
                if component_of(key) == component
            }
            about = {"format": "pt"} | {key: text for key, text in header.metadata.items() if key != METADATA_KEY}
            written = create_file(place / WEIGHTS, {k: (each.dtype, each.shape) for k, each in keys.items()}, about)
            for key, stored in keys.items():
                write_rows(written[key], read_rows(stored))
            own = {name.removeprefix(f"{component}."): value for name, value in config.items()}
            own = {name: value for name, value in own.items() if "." not in name}
            about_model = {"peft_type": "LORA", "base_model_name_or_path": shift.metadata.base, "inference_mode": True}
            (place / CONFIG).write_text(json.dumps({**about_model, **own}, indent=2) + "\n", encoding="utf-8")
            size += sum(file.stat().st_size for file in place.iterdir())
        whole.unlink()
    return replace(done, bytes=size)
