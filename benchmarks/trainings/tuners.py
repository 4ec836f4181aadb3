"""The ways to fine-tune a whole pipeline that the quality bench compares, each on a pipeline of its own.

    balanced, ...    presets of `spectra train` with outer terms, each with its own settings
    shift            every weight of the UNet and of the text encoder, by its spectral shift
    shift-ca         cross-attention of the UNet (the paper's UNet-CA), and the text encoder
    shift-ca-kv      keys and values of cross-attention (UNet-CA-KV), and the text encoder
    lora-1, -4, -16  PEFT's LoRA of that rank on every matrix and convolution of both, and on the token embedding
    lora-bytes       PEFT's LoRA of rank 1 on attention, feed-forward's second matrix and the token embedding: nearly as
                     many bytes as `shift`
    lokr             PEFT's LoKr of rank 8 on every matrix and convolution of both
    ia3              PEFT's IA3 on the same
    vera             PEFT's VeRA of rank 256 on every matrix of both: it takes no convolutions
    oft              PEFT's OFT in blocks of 4 on every matrix of both; its convolutions of more than one tap do not
                     begin as the base (0.21.2), since overlapping patches are added up
    tinylora         PEFT's TinyLoRA on every matrix of both: 64 numbers for each, beside its two leading directions
    psoft            PEFT's PSOFT of rank 16 on every matrix of both
    full             every parameter of both

All train the text encoder, since the embedded base has learnt to read past words that it does not know.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from spectra.training.presets import PRESETS

if TYPE_CHECKING:
    from torch import Tensor, nn

    from spectra.adapters.training_adapter import Adapter

COMPONENTS = ("unet", "text_encoder")


@dataclass
class Tuner:
    """A pipeline being fine-tuned.

    Attributes:
        pipe: the pipeline; its weights are its own.
        parameters: what is trained, by name.
        rates: the setting of a training that is each parameter's learning rate, by name.
        frozen: a context in which the pipeline computes as the base.
        finish: makes the pipeline draw at the base's speed with what was learnt; it trains no more after that.
        adapter: spectra's, None for the other methods.
        origin: the base's values of the parameters, by name; empty where they are zero.
    """

    pipe: Any
    parameters: dict[str, nn.Parameter]
    rates: dict[str, str]
    frozen: Callable[[], AbstractContextManager[None]]
    finish: Callable[[], object]
    adapter: Adapter | None = None
    origin: Mapping[str, Tensor] = field(default_factory=dict)

    def decay_to_origin(self, optimizer: Any) -> None:
        """Let an AdamW optimizer's weight decay draw to `origin`, and not to zero."""
        if not self.origin:
            return
        import torch

        (group,) = optimizer.param_groups  # all weights have one rate where there is an origin
        decay, group["weight_decay"] = group["weight_decay"], 0.0

        def pull(*_: Any) -> None:
            with torch.no_grad():
                for name, value in self.origin.items():
                    self.parameters[name].lerp_(value, group["lr"] * decay)

        optimizer.register_step_post_hook(pull)

    def store(self) -> int:
        """Round what was learnt to what its file holds, float16. Returns the file's bytes."""
        import torch
        from safetensors.torch import save

        with torch.no_grad():
            for parameter in self.parameters.values():
                parameter.copy_(parameter.half())
        if self.adapter is not None:
            return _shift_bytes(self.adapter)
        return len(save({name: p.detach().half().contiguous() for name, p in self.parameters.items()}))


def tuner(method: str, base: Any) -> Tuner:
    """The method called `method`, at its beginning: the pipeline draws as `base` does.

    Args:
        base: the embedded base; it stays as it is, and gives the frozen answers where a method has changed its own.
    """
    from spectra.bases.pipeline import load_pipeline

    return METHODS[method](load_pipeline(), base)


def _shift_bytes(adapter: Adapter) -> int:
    import tempfile
    from pathlib import Path

    from spectra.shift.shift_file import write_shift
    from spectra.version import versions

    with tempfile.TemporaryDirectory() as folder:
        shift = adapter.shift(base="embedded", seed=0, versions=versions())
        return write_shift(shift, Path(folder) / "shift.safetensors", dtype="float16")


def _shift(targets: str) -> Callable[[Any, Any], Tuner]:
    def make(pipe: Any, base: Any) -> Tuner:
        import spectra
        from spectra.families import targets as chosen
        from spectra.training.run.optimizer import rate_settings

        ndims = {target.name: target.weight.ndim for target in chosen(pipe, targets)}
        adapter = spectra.attach(pipe, targets)
        rates = rate_settings(adapter.by_key, ndims)
        return Tuner(pipe, adapter.train().by_key, rates, adapter.disabled, adapter.eval, adapter)

    return make


def _preset(name: str) -> Callable[[Any, Any], Tuner]:
    """A preset of `spectra train`, for the special word of the embedded subjects."""

    def make(pipe: Any, base: Any) -> Tuner:
        from spectra.adapters.live_parameters import Form
        from spectra.adapters.training_adapter import attach_form
        from spectra.bases.embedded.subjects import TOKEN
        from spectra.families import targets as chosen
        from spectra.families.special_word import token_embeddings, word_tokens
        from spectra.training.config import defaults
        from spectra.training.form import check_directions, check_outer
        from spectra.training.run.optimizer import rate_settings

        config = defaults("", name)
        words = {table: word_tokens(tokenizer, TOKEN) for table, tokenizer in token_embeddings(pipe)}
        directions, outer = check_directions(config.directions).number, check_outer(config.outer).each
        form = Form(directions, outer, words if config.word else {}, vectors=config.lr_1d > 0)
        adapter = attach_form(pipe, config.all_targets, form)
        ndims = {each.name: each.weight.ndim for each in chosen(pipe, ",".join([config.all_targets, *form.words]))}
        rates = rate_settings(adapter.by_key, ndims)
        return Tuner(pipe, adapter.train().by_key, rates, adapter.disabled, adapter.eval, adapter)

    return make


def _peft(
    configure: Callable[[Mapping[str, list[str]]], Any], *, from_ones: bool = False
) -> Callable[[Any, Any], Tuner]:
    """A method of PEFT; `configure` gets the paths of a component's layers by kind.

    Args:
        from_ones: what is trained are factors, and the base is where they are 1, not 0.
    """

    def make(pipe: Any, base: Any) -> Tuner:
        from peft import get_peft_model

        for name in COMPONENTS:
            model = getattr(pipe, name)
            get_peft_model(model, configure(_layers(model)))  # the layers are replaced in the model itself
        return _other(pipe, base, finish=lambda: _merge(pipe), decays_to_start=from_ones)

    return make


def _layers(model: nn.Module) -> dict[str, list[str]]:
    from torch import nn

    kinds: dict[str, tuple[type[nn.Module], ...]] = {"matrices": (nn.Linear, nn.Conv2d), "linear": (nn.Linear,)}
    found = {kind: [p for p, m in model.named_modules() if isinstance(m, types)] for kind, types in kinds.items()}
    found["tokens"] = [path for path, _ in model.named_modules() if path.endswith("token_embedding")]
    found["attention"] = [path for path in found["linear"] if "attn" in path]
    found["feed_forward"] = [path for path in found["linear"] if path.endswith(("ff.net.2", "fc2"))]
    return found


def _merge(pipe: Any) -> None:
    from peft.tuners.tuners_utils import BaseTunerLayer

    for name in COMPONENTS:
        for module in getattr(pipe, name).modules():
            if isinstance(module, BaseTunerLayer):
                module.merge()


def _full(pipe: Any, base: Any) -> Tuner:
    for name in COMPONENTS:
        getattr(pipe, name).requires_grad_(True)
    return _other(pipe, base, finish=lambda: None, decays_to_start=True)


def _other(pipe: Any, base: Any, finish: Callable[[], object], *, decays_to_start: bool) -> Tuner:
    """Whatever was set to train in the pipeline; the base's answers come from the base itself."""
    parameters = {
        f"{name}.{path}": parameter
        for name in COMPONENTS
        for path, parameter in getattr(pipe, name).named_parameters()
        if parameter.requires_grad
    }

    @contextmanager
    def frozen() -> Iterator[None]:
        own = {name: getattr(pipe, name) for name in COMPONENTS}
        for name in COMPONENTS:
            setattr(pipe, name, getattr(base, name))
        try:
            yield
        finally:
            for name, model in own.items():
                setattr(pipe, name, model)

    start = {name: p.detach().clone() for name, p in parameters.items()} if decays_to_start else {}
    return Tuner(pipe, parameters, dict.fromkeys(parameters, "lr"), frozen, finish, origin=start)


def _lora(rank: int, kinds: tuple[str, ...] = ("matrices", "tokens")) -> Callable[[Mapping[str, list[str]]], Any]:
    def configure(layers: Mapping[str, list[str]]) -> Any:
        from peft import LoraConfig

        return LoraConfig(r=rank, lora_alpha=rank, target_modules=[path for kind in kinds for path in layers[kind]])

    return configure


def _lokr(layers: Mapping[str, list[str]]) -> Any:
    from peft import LoKrConfig

    return LoKrConfig(r=8, alpha=8, target_modules=layers["matrices"])


def _ia3(layers: Mapping[str, list[str]]) -> Any:
    from peft import IA3Config

    return IA3Config(target_modules=layers["matrices"], feedforward_modules=layers["feed_forward"])


def _vera(layers: Mapping[str, list[str]]) -> Any:
    from peft import VeraConfig

    return VeraConfig(r=256, target_modules=layers["linear"])


def _oft(layers: Mapping[str, list[str]]) -> Any:
    from peft import OFTConfig

    return OFTConfig(oft_block_size=4, target_modules=layers["linear"])


def _tinylora(layers: Mapping[str, list[str]]) -> Any:
    from peft import TinyLoraConfig

    return TinyLoraConfig(r=2, u=64, target_modules=layers["linear"])


def _psoft(layers: Mapping[str, list[str]]) -> Any:
    from peft import PsoftConfig

    return PsoftConfig(r=16, psoft_alpha=16, target_modules=layers["linear"])


METHODS: Mapping[str, Callable[[Any, Any], Tuner]] = {
    **{name: _preset(name) for name in PRESETS if name != "svdiff"},
    "shift": _shift("unet,text-encoder"),
    "shift-ca": _shift("unet-ca,text-encoder"),
    "shift-ca-kv": _shift("unet-ca-kv,text-encoder"),
    "lora-1": _peft(_lora(1)),
    "lora-4": _peft(_lora(4)),
    "lora-16": _peft(_lora(16)),
    "lora-bytes": _peft(_lora(1, ("attention", "feed_forward", "tokens"))),
    "lokr": _peft(_lokr),
    "ia3": _peft(_ia3, from_ones=True),
    "vera": _peft(_vera),
    "oft": _peft(_oft),
    "tinylora": _peft(_tinylora),
    "psoft": _peft(_psoft, from_ones=True),
    "full": _full,
}
