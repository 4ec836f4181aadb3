"""Using shifts on a live model: load by name, activate at a scale, switch, unload.

    spectra.load(pipe, "dog.safetensors", name="dog")    # in force at once, as diffusers loads a LoRA
    spectra.load(pipe, "style.safetensors", name="style")
    spectra.activate(pipe, {"dog": 1.0, "style": 0.4})   # ReLU(sigma + 1.0 * dog + 0.4 * style)
    with spectra.disabled(pipe): ...                      # the base
    spectra.unload(pipe)                                  # the base, bit for bit

While shifts are active each touched weight has its shifted values, made once: a forward costs what the base's costs.
The frozen values are kept beside, and unloading puts them back. Beside a quantised weight, which stays as it is, the
shift is a term of its own, as it is beside every weight after `unfuse`, as far as it is of low rank.

What is loaded belongs to the models, not to the pipeline: pipelines that share a model share the shifts in it.
docs/live-models.md tells what may be done to a model in which order.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from spectra.adapters.adapter_weights import AdapterWeights
from spectra.adapters.served_pipeline import Served
from spectra.errors import MismatchError


def activate(pipe: Any, scales: Mapping[str, AdapterWeights] | str) -> None:
    """Put loaded shifts in force: `ReLU(sigma + sum of scale * delta)`, and no others. `{}` gives the base.

    Args:
        pipe: as given to `load`.
        scales: scale by name, or one name at scale 1. A scale is a number, or has one for each of some components or
            blocks (see `adapter_weights`).

    Raises:
        MismatchError: a name that is not loaded, a scale that is none, or weights that another program has changed;
            nothing changes then.
        WeightError: weights are offloaded so that they cannot be changed; nothing changes then.
    """
    models = Served(pipe)
    models.put(models.weights(scales))


@contextmanager
def per_sample(
    pipe: Any, scales: Sequence[Mapping[str, AdapterWeights] | str], *, images_per_prompt: int = 1
) -> Iterator[None]:
    """Within the block every sample of a batch has shifts of its own; afterwards what was active before.

        with spectra.per_sample(pipe, ["dog", {"cat": 0.8, "style": 0.4}, {}]):
            pipe(["a [V1] dog", "a [V2] cat", "a house"])

    The frozen weights compute once for the whole batch, and each sample takes its own row of deltas: one model in
    memory serves any number of shifts, and none is merged into a weight.

    Args:
        pipe: as given to `load`.
        scales: for each prompt of the batch, as `activate` takes them; `{}` is the base.
        images_per_prompt: as the pipeline's `num_images_per_prompt`.

    Raises:
        MismatchError: a name that is not loaded, a weight that a batch shares (T5's table of relative positions,
            Z-Image's embedders), fused projections, or, by a forward, a batch that is no multiple of the samples.
    """
    models = Served(pipe)
    rows = [models.weights(each) for each in scales]
    if not rows or images_per_prompt < 1:
        raise MismatchError(
            f"per_sample expects the shifts of at least one sample and images_per_prompt of at least 1, got "
            f"{len(rows)} samples and images_per_prompt={images_per_prompt}"
        )
    with disabled(pipe), ExitStack() as blocks:
        for model, state in models:
            blocks.enter_context(state.per_sample(model, rows, images_per_prompt))
        yield


def loaded(pipe: Any) -> dict[str, AdapterWeights]:
    """The names of the loaded shifts, each with its scale as it was given; 0 if it is not active."""
    found: dict[str, AdapterWeights] = {}
    for _, state in Served(pipe):
        for name in state.shifts:
            given = state.active[name].given if name in state.active else 0.0
            found[name] = found.get(name) or given
    return found


def disable(pipe: Any) -> None:
    """The frozen base, until `enable`, `activate` or `load` puts shifts in force again."""
    for model, state in Served(pipe).checked():
        state.disable(model)


def enable(pipe: Any) -> None:
    """What was active when `disable` was called."""
    for model, state in Served(pipe).checked():
        state.enable(model)


@contextmanager
def disabled(pipe: Any) -> Iterator[None]:
    """The frozen base within the block; afterwards what was active before."""
    models = Served(pipe).checked()
    before = [(model, state, dict(state.active), state.enabled) for model, state in models]
    for model, state in models:
        state.disable(model)
    try:
        yield
    finally:
        for model, state, active, enabled in before:
            active = {name: weights for name, weights in active.items() if name in state.shifts}
            if enabled:
                state.put(model, active)


def fuse(pipe: Any) -> None:
    """Let shifts be in the weights, as they are unless `unfuse` was called: a forward costs what the base's costs."""
    _fuse(pipe, True)


def unfuse(pipe: Any) -> None:
    """Let shifts compute beside the weights, which are the base's, bit for bit, now and whenever one is loaded.

    Loading and switching then copy a shift's own numbers and no weights, and a forward costs what a LoRA's of the same
    rank costs. Deltas of most directions of a weight, and of 1-D weights, stay in the weights: they have no low rank.

    Raises:
        MismatchError: projections of attention are fused, for one; nothing changes then.
    """
    _fuse(pipe, False)


def _fuse(pipe: Any, fused: bool) -> None:
    models = Served(pipe, make=lambda name: True).checked()
    for model, state in models:
        before, state.fused = state.fused, fused
        if before != fused and state.enabled:
            try:
                state.put(model, state.active)
            except MismatchError:
                state.fused = before
                raise


def unload(pipe: Any, name: str | None = None) -> None:
    """Forget one shift, or all of them. What no other shift changes is the base again, bit for bit.

    Raises:
        MismatchError: `name` is not loaded, or another program has changed the weights; nothing changes then.
        WeightError: weights are offloaded so that they cannot be changed; nothing changes then.
    """
    models = Served(pipe).checked()
    if name is not None:
        models.check_loaded(name)
    for model, state in models:
        state.forget(model, set(state.shifts) if name is None else {name})
