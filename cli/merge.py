"""`spectra merge`: one shift from several, by any of a dozen methods. Needs neither torch nor the base."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spectra.cli import output
from spectra.cli.options import (
    FilePrecision,
    argument,
    command,
    file_dtype_option,
    force_option,
    json_option,
    output_option,
)
from spectra.combine.merge_settings import PARAMETERS, MergeSettings
from spectra.errors import InputError
from spectra.settings import declared_settings, setting

if TYPE_CHECKING:
    from spectra.combine.merging import Recipe

_RECIPE = "Recipes and output"


@dataclass(frozen=True)
class _Options:
    files: tuple[str, ...] = argument("Shifts of one base.", "FILE[:SCALE]...", ())
    average: bool = setting(
        False,
        "The mean of the shifts, such as those of a training's last steps (DIR@300..500). Of a weight as many outer "
        "terms are kept as some weight has in one of them, unless --outer-rank says otherwise.",
        panel=declared_settings(MergeSettings)["method"].panel,
    )
    show: bool = setting(
        False, "List the methods.", option="--list", panel=declared_settings(MergeSettings)["method"].panel
    )
    out: Path | None = output_option("The merged shift.", None)
    recipe: Path | None = setting(
        None,
        "Repeat the merge of a TOML file, or of a merged shift; shifts that are not where it says are found by content "
        "among those given.",
        metavar="FILE",
        panel=_RECIPE,
    )
    save_recipe: Path | None = setting(None, "Write the recipe too.", metavar="FILE.toml", panel=_RECIPE)
    file_dtype: FilePrecision | None = file_dtype_option(_RECIPE)
    dry_run: bool = setting(False, "Say what would happen; write nothing.", panel=_RECIPE)
    force: bool = force_option("existing files", _RECIPE)
    json: bool = json_option(panel=_RECIPE)


@command(
    _Options,
    "spectra merge dog.safetensors:0.7 style.safetensors:0.3 -o both.safetensors",
    "spectra merge a.safetensors b.safetensors --alpha 0.6 --block-weights unet.up_blocks.1=1 -o ab.safetensors",
    "spectra merge --recipe ab.toml -o ab.safetensors",
    "spectra merge --average out/dog@300..500 -o smoother.safetensors",
    "spectra merge --list",
    library=declared_settings(MergeSettings),
)
def merge(options: _Options, given: dict[str, Any]) -> None:
    """Merges shifts of one base into one, and tells how they interfere and what the ReLU cuts off.

    A weight that a shift lacks has delta zero in it. The recipe is kept in the result.
    """
    from spectra.cli import merge_view
    from spectra.combine import merging
    from spectra.io.atomic_writes import atomic_write, check_output
    from spectra.shift.precision import kept_precision
    from spectra.shift.shift_file import write_shift
    from spectra.shift.shift_header import read_shift_header

    if options.show:
        merge_view.methods(merging.METHODS.values(), json=options.json)
        return
    out, save_recipe, force = options.out, options.save_recipe, options.force
    if out is None and not options.dry_run:
        raise InputError("expected -o FILE for the merged shift, or --dry-run")
    if save_recipe is not None and save_recipe.suffix != ".toml":
        raise InputError(f"--save-recipe: expected a name that ends in .toml, got {save_recipe}")
    for target in () if options.dry_run else (out, save_recipe):
        if target is not None:
            check_output(target, force=force)
    if options.recipe is not None:
        if given or options.average:
            raise InputError("--recipe holds method, weights, parameters, outer rank and seed; leave those options out")
        recipe = merging.read_recipe(options.recipe)
        paths = merging.find_parents(recipe, map(Path, options.files))
    else:
        recipe, paths = _recipe(options.files, _averaged(given) if options.average else MergeSettings(**given))
        if options.average and recipe.outer_rank is None:
            recipe = replace(recipe, outer_rank=_most_terms(paths))
    merged = merging.replay(paths, recipe, progress=output.progress())

    found = merge_view.as_dict(merged)
    text = "" if save_recipe is None else merged.recipe.to_toml(save_recipe.parent)
    if not options.dry_run and out is not None:
        dtype = kept_precision((read_shift_header(path).precision for path in paths), options.file_dtype)
        found["bytes"] = write_shift(merged.shift, out, dtype=dtype, force=force)
        found["output"] = str(out)
        found["content_hash"] = read_shift_header(out).metadata.content_hash
        if save_recipe is not None:
            with atomic_write(save_recipe, force=force) as temporary:
                temporary.write_text(text, encoding="utf-8")
            found["saved_recipe"] = str(save_recipe)
    output.result(found, json=options.json, human=lambda: merge_view.show(merged, found))


def _recipe(files: tuple[str, ...], asked: MergeSettings) -> tuple[Recipe, list[Path]]:
    """The recipe that the options come to, and the files."""
    from spectra.combine.merging import METHODS, Parent, Recipe
    from spectra.shift.scaled_files import parse_shifts

    if not files:
        raise InputError("expected the shifts to merge: spectra merge A B -o OUT")
    alpha, weights = asked.alpha, asked.weights
    method = asked.method or ("interpolate" if alpha is not None else "weighted" if weights else "add")
    takes_alpha = method in METHODS and METHODS[method].shares == "alpha"
    if alpha is not None and weights:
        raise InputError("give either --alpha or --weights")
    if (alpha is not None and not takes_alpha) or (weights and takes_alpha):
        raise InputError(f"{method} takes {'--alpha' if takes_alpha else '--weights W,W,...'}")
    pairs = [pair for file in files for pair in parse_shifts(file)]
    parameters = {name: getattr(asked, name) for name in PARAMETERS}
    recipe = Recipe(
        method=method,
        parents=tuple(Parent(scale=scale) for _, scale in pairs),
        weights=(alpha,) if alpha is not None else _numbers("--weights", weights),
        blocks=tuple(_block(text) for text in asked.block_weights),
        parameters={name: value for name, value in parameters.items() if value is not None},
        seed=asked.seed or 0,
        outer_rank=asked.outer_rank,
    )
    return recipe, [path for path, _ in pairs]


def _averaged(given: dict[str, Any]) -> MergeSettings:
    """The settings of a mean."""
    if wrong := sorted(given.keys() - {"outer_rank"}):
        raise InputError(
            f"--average is a mean, each shift of the same weight: leave --{wrong[0].replace('_', '-')} out"
        )
    return MergeSettings(method="weighted", **given)


def _most_terms(paths: list[Path]) -> int | None:
    """The most outer terms that a weight has in one of the shifts; None for none."""
    from spectra.shift.shift_header import read_shift_header

    return max((count for path in paths for count in read_shift_header(path).outer.values()), default=None)


def _block(text: str) -> tuple[str, tuple[float, ...]]:
    pattern, equals, numbers = text.rpartition("=")
    if not (pattern and equals and numbers):
        raise InputError(f"--block-weights takes PATTERN=W[,W...], got {text!r}")
    return pattern, _numbers("--block-weights", numbers)


def _numbers(option: str, text: str) -> tuple[float, ...]:
    try:
        return tuple(float(number) for number in text.split(",")) if text else ()
    except ValueError as error:
        raise InputError(f"{option}: expected numbers separated by commas, got {text!r}") from error
