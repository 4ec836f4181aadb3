"""How a base's denoiser is quantised when it is loaded, by diffusers' own configurations."""

from __future__ import annotations

import importlib.util
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spectra.bases.index_files import read_index
from spectra.bases.original_layouts import original_layout
from spectra.errors import BaseError, InputError
from spectra.io.tensor_files import create_file, stored_tensors, write_rows
from spectra.naming.target_subsets import DENOISERS

if TYPE_CHECKING:
    import torch

_PACKAGE = {"nf4": "bitsandbytes", "bnb-int8": "bitsandbytes", "int8": "torchao", "fp8": "torchao", "gguf": "gguf"}
"""The package that each kind needs; those of GGUF files are named by the file."""

_CHOICES = (*(kind for kind in _PACKAGE if kind != "gguf"), "FILE.gguf")

QUANTIZE: Mapping[str, Any] = {
    "default": "",
    "help": "Quantise the denoiser when it is loaded: nf4, bnb-int8 (bitsandbytes), int8, fp8 (torchao); or take "
    "it from a GGUF file. Shifts of few directions or outer terms act beside it.",
    "metavar": "KIND|FILE",
    "default_text": "as stored",
}
SPECTRA_FROM: Mapping[str, Any] = {
    "default": "",
    "help": "Full-precision base of which a quantised one is a copy: spectra and fingerprints are taken from it.",
    "metavar": "BASE",
    "default_text": "the base itself, if it has them",
    "path": True,
}
"""What commands that load a base declare of the settings `quantize` and `spectra_from`."""


@dataclass(frozen=True)
class Quantisation:
    """What a setting such as "nf4", or a GGUF file, means.

    Attributes:
        kind: one of nf4, bnb-int8 (bitsandbytes), int8, fp8 (torchao) and gguf.
        file: the GGUF file that holds the denoiser; None for the other kinds.
    """

    kind: str
    file: Path | None = None

    def require(self) -> None:
        """Raise an InputError, with what to do, if the package that the kind needs, or the file, is not here."""
        if self.file is not None and not self.file.is_file():
            raise InputError(f"--quantize {self.file}: no such file; expected a GGUF file with the base's denoiser")
        package = _PACKAGE[self.kind]
        if importlib.util.find_spec(package) is None:
            raise InputError(f"--quantize {self.file or self.kind} needs the package {package}: pip install {package}")

    def pipeline_config(self, denoiser: str, compute_dtype: torch.dtype) -> Any:
        """What diffusers' `from_pretrained` of a pipeline takes as `quantization_config`.

        Arguments and errors are those of `model_config`; `denoiser` is the name of the component that is quantised.
        """
        from diffusers import PipelineQuantizationConfig

        return PipelineQuantizationConfig(quant_mapping={denoiser: self.model_config(compute_dtype)})

    def model_config(self, compute_dtype: torch.dtype) -> Any:
        """What diffusers takes as `quantization_config` of one model.

        Args:
            compute_dtype: in which layers compute.

        Raises:
            InputError: bitsandbytes, which diffusers loads on a GPU only, and there is none.
        """
        import torch

        config: Any
        if _PACKAGE[self.kind] == "torchao":
            import torchao.quantization as ao
            from diffusers import TorchAoConfig

            config = TorchAoConfig(ao.Int8WeightOnlyConfig() if self.kind == "int8" else ao.Float8WeightOnlyConfig())
        else:
            from diffusers import BitsAndBytesConfig

            if not any(torch.get_device_module(name).is_available() for name in ("cuda", "xpu", "mps")):
                raise InputError(
                    f"--quantize {self.kind}: diffusers loads weights of bitsandbytes on a GPU only, and here is none; "
                    "on a CPU use int8 or fp8"
                )
            config = BitsAndBytesConfig(load_in_8bit=True)
            if self.kind == "nf4":
                config = BitsAndBytesConfig(
                    load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=compute_dtype
                )
        return config


def parse_quantisation(text: str) -> Quantisation | None:
    """What a setting means; None where it is empty.

    Raises:
        InputError: it is no kind that is known.
    """
    if not text:
        return None
    if text.endswith(".gguf"):
        return Quantisation("gguf", Path(text))
    if text not in _PACKAGE or text == "gguf":
        raise InputError(f"quantize: expected one of {', '.join(_CHOICES)}, got {text!r}")
    return Quantisation(text)


def find_denoiser(folder: Path) -> tuple[str, Any]:
    """The name of a pipeline folder's denoiser, and diffusers' class of it.

    Raises:
        BaseError: it has none.
    """
    import diffusers

    parts = read_index(folder)
    for name in DENOISERS:
        kind = parts.get(name)
        if isinstance(kind, list) and len(kind) == 2 and hasattr(diffusers, str(kind[1])):
            return name, getattr(diffusers, kind[1])
    raise BaseError(f"{folder}: no denoiser in its model_index.json; expected one of {', '.join(DENOISERS)}")


def read_gguf(file: Path, folder: Path, dtype: torch.dtype) -> dict[str, Any]:
    """The denoiser in a GGUF file, configured as a pipeline folder says, by the name of its component."""
    from diffusers import GGUFQuantizationConfig

    name, kind = find_denoiser(folder)
    config = GGUFQuantizationConfig(compute_dtype=dtype)
    return {
        name: kind.from_single_file(
            str(file), config=str(folder / name), quantization_config=config, dtype=dtype, local_files_only=True
        )
    }


def quantised_from_file(
    checkpoint: Path, quantisation: Quantisation, dtype: torch.dtype, folder: Path
) -> dict[str, Any]:
    """The denoiser of a single-file checkpoint, quantised, by the name of its component.

    diffusers quantises what it loads from a folder. So one is made for it, tensor by tensor, among the system's
    temporary files; it has the denoiser's size, and is gone when this returns.

    Args:
        folder: that has the checkpoint's configuration.
    """
    if quantisation.file is not None:
        return read_gguf(quantisation.file, folder, dtype)
    name, kind = find_denoiser(folder)
    config = quantisation.model_config(dtype)
    places = original_layout(stored_tensors(checkpoint))[name]
    with tempfile.TemporaryDirectory(prefix="spectra-") as temporary:
        shutil.copy(folder / name / "config.json", temporary)
        tensors = {key: (place.dtype, place.shape) for key, place in places.items()}
        written = create_file(Path(temporary) / "diffusion_pytorch_model.safetensors", tensors, {"format": "pt"})
        for key, place in places.items():
            write_rows(written[key], place.read())
        options = {"quantization_config": config, "dtype": dtype, "use_safetensors": True, "local_files_only": True}
        return {name: kind.from_pretrained(temporary, **options)}
