"""`spectra merge`: one shift from several, by any of a dozen methods. Needs neither torch nor the base."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from spectra.cli import output
from spectra.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from spectra.combine.merging import Recipe

_EXAMPLE = (
    "Example:  spectra merge dog.safetensors:0.7 style.safetensors:0.3 -o both.safetensors     |     "
    "spectra merge a.safetensors b.safetensors --alpha 0.6 --block-weights unet.up_blocks.1=1 -o ab.safetensors"
    "     |     spectra merge --recipe ab.toml -o ab.safetensors     |     spectra merge --list"
)
_HOW, _RECIPE = "How they are merged", "Recipes and output"


def register(app: typer.Typer) -> None:
    """Adds the command."""

    @app.command(epilog=_EXAMPLE)
    def merge(
        files: Annotated[
            list[str] | None,
            typer.Argument(metavar="FILE[:SCALE]...", help="Shifts of one base.", show_default=False),
        ] = None,
        out: Annotated[
            Path | None, typer.Option("--out", "-o", metavar="FILE", help="The merged shift.", show_default=False)
        ] = None,
        method: Annotated[
            str,
            typer.Option(
                help="See --list. Without it: interpolate with --alpha, weighted with --weights, else add, which "
                "gives what spectra generate draws with these shifts together.",
                show_default=False,
                rich_help_panel=_HOW,
            ),
        ] = "",
        alpha: Annotated[
            float | None,
            typer.Option(help="Of interpolate and slerp: 1 is the first shift, 0 the second.", rich_help_panel=_HOW),
        ] = None,
        weights: Annotated[
            str,
            typer.Option(
                metavar="W,W,...", help="One for each shift, or one for all.", show_default=False, rich_help_panel=_HOW
            ),
        ] = "",
        block_weights: Annotated[
            list[str] | None,
            typer.Option(
                metavar="PATTERN=W[,W...]",
                help="Other weights (or alpha) for some layers: a subset, a block as inspect shows it, or a pattern "
                "such as 'unet.*attn2*'. Repeatable; the last one that means a layer holds.",
                show_default=False,
                rich_help_panel=_HOW,
            ),
        ] = None,
        density: Annotated[
            float | None,
            typer.Option(help="Share of values that is kept.", show_default=False, rich_help_panel=_HOW),
        ] = None,
        epsilon: Annotated[
            float | None,
            typer.Option(help="Of della: spread of the shares.", show_default=False, rich_help_panel=_HOW),
        ] = None,
        gamma: Annotated[
            float | None,
            typer.Option(help="Of breadcrumbs: share left out at the top.", show_default=False, rich_help_panel=_HOW),
        ] = None,
        seed: Annotated[
            int | None,
            typer.Option(help="Of methods that draw at random; 0 if not given.", rich_help_panel=_HOW),
        ] = None,
        recipe: Annotated[
            Path | None,
            typer.Option(
                metavar="FILE",
                help="Repeat the merge of a TOML file, or of a merged shift; shifts that are not where it says are "
                "found by content among those given.",
                show_default=False,
                rich_help_panel=_RECIPE,
            ),
        ] = None,
        save_recipe: Annotated[
            Path | None,
            typer.Option(
                metavar="FILE.toml", help="Write the recipe too.", show_default=False, rich_help_panel=_RECIPE
            ),
        ] = None,
        file_dtype: Annotated[
            str, typer.Option(help="float32, or float16 for half the bytes.", rich_help_panel=_RECIPE)
        ] = "float32",
        dry_run: Annotated[
            bool, typer.Option("--dry-run", help="Say what would happen; write nothing.", rich_help_panel=_RECIPE)
        ] = False,
        show: Annotated[bool, typer.Option("--list", help="List the methods.", rich_help_panel=_HOW)] = False,
        force: Annotated[
            bool, typer.Option("--force", help="Replace existing files.", rich_help_panel=_RECIPE)
        ] = False,
        json: Annotated[bool, typer.Option("--json", help="Print one JSON object.", rich_help_panel=_RECIPE)] = False,
    ) -> None:
        """Merges shifts of one base into one, and tells how they interfere and what the ReLU cuts off.

        A weight that a shift lacks has delta zero in it. The recipe is kept in the result.
        """
        from spectra.cli import merge_view
        from spectra.combine import merging
        from spectra.io.atomic_writes import atomic_write, check_output
        from spectra.shift.shift_file import file_precision, write_shift
        from spectra.shift.shift_header import read_shift_header

        if show:
            merge_view.methods(merging.METHODS.values(), json=json)
            return
        if out is None and not dry_run:
            raise InputError("expected -o FILE for the merged shift, or --dry-run")
        if save_recipe is not None and save_recipe.suffix != ".toml":
            raise InputError(f"--save-recipe: expected a name that ends in .toml, got {save_recipe}")
        precision = file_precision(file_dtype)
        for target in () if dry_run else (out, save_recipe):
            if target is not None:
                check_output(target, force=force)
        given = {"density": density, "epsilon": epsilon, "gamma": gamma}
        parameters = {name: value for name, value in given.items() if value is not None}
        if recipe is not None:
            if method or alpha is not None or weights or block_weights or parameters or seed is not None:
                raise InputError("--recipe holds method, weights, parameters and seed; leave those options out")
            wanted = merging.read_recipe(recipe)
            paths = merging.find_parents(wanted, map(Path, files or []))
        else:
            wanted, paths = _asked(files or [], method, alpha, weights, block_weights or [], parameters, seed or 0)
        merged = merging.replay(paths, wanted, progress=output.progress())

        found = merge_view.as_dict(merged)
        text = "" if save_recipe is None else merged.recipe.to_toml(save_recipe.parent)
        if not dry_run and out is not None:
            found["bytes"] = write_shift(merged.shift, out, dtype=precision, force=force)
            found["output"] = str(out)
            found["content_hash"] = read_shift_header(out).metadata.content_hash
            if save_recipe is not None:
                with atomic_write(save_recipe, force=force) as temporary:
                    temporary.write_text(text, encoding="utf-8")
                found["saved_recipe"] = str(save_recipe)
        output.result(found, json=json, human=lambda console: merge_view.show(console, merged, found))


def _asked(
    files: Sequence[str],
    method: str,
    alpha: float | None,
    weights: str,
    block_weights: Sequence[str],
    parameters: Mapping[str, float],
    seed: int,
) -> tuple[Recipe, list[Path]]:
    """The recipe that the options come to, and the files."""
    from spectra.combine.merging import METHODS, Parent, Recipe
    from spectra.shift.scaled_files import parse_shift

    if not files:
        raise InputError("expected the shifts to merge: spectra merge A B -o OUT")
    chosen = method or ("interpolate" if alpha is not None else "weighted" if weights else "add")
    takes_alpha = chosen in METHODS and METHODS[chosen].shares == "alpha"
    if alpha is not None and weights:
        raise InputError("give either --alpha or --weights")
    if (alpha is not None and not takes_alpha) or (weights and takes_alpha):
        raise InputError(f"{chosen} takes {'--alpha' if takes_alpha else '--weights W,W,...'}")
    pairs = [parse_shift(file) for file in files]
    recipe = Recipe(
        method=chosen,
        parents=tuple(Parent(scale=scale) for _, scale in pairs),
        weights=(alpha,) if alpha is not None else _numbers("--weights", weights),
        blocks=tuple(_block(text) for text in block_weights),
        parameters=parameters,
        seed=seed,
    )
    return recipe, [path for path, _ in pairs]


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
