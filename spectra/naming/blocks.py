"""The block that a weight belongs to, the kind of layer that it is, and the order of such names."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

KINDS = (
    ("cross-attention", ("attn2.", "cross_attn.")),
    ("self-attention", ("attn1.", "self_attn.", "SelfAttention.")),
    ("joint attention", ("attn.", "attention.")),
    (
        "modulation",
        (
            "_mod.",
            "modulation",
            "norm.linear",
            "norm1.linear",
            "norm1_context.linear",
            "norm_out.linear",
            "distilled_guidance_layer.",
        ),
    ),
    ("norm", ("norm",)),
    ("embedding", ("emb", "img_in", "txt_in")),
    ("feed-forward", ("ff.", "ff_context.", "mlp", "feed_forward.", "DenseReluDense.")),
    ("convolution", ("conv", "downsample", "upsample")),
    ("projection", ("proj", "final_layer.")),
)
"""Kinds of layer, each with the parts of a name that tell it, in the order they are tried.

The names are those of diffusers' and transformers' modules. A norm of queries or keys (`attn.norm_q`) counts as the
attention's own; what makes a norm's scale and offset of the time is a modulation, as all of Chroma's
`distilled_guidance_layer` is, which makes them for all blocks.
"""

_SERIES = re.compile("block|layer|refiner")
"""What a list of blocks has in its name. Other numbers are steps of a sequence, such as `cap_embedder.1`."""


def block_of(name: str) -> str:
    """The block a weight belongs to: its name up to the number in a list of blocks, or its component if there is none.

    `unet.down_blocks.1.attentions.0...` is in `unet.down_blocks.1`, `unet.mid_block...` in `unet.mid_block`, and
    `unet.conv_in` in `unet`.
    """
    pieces = name.split(".")
    if pieces[1:2] == ["mid_block"]:
        return ".".join(pieces[:2])
    number = next((i for i in range(2, len(pieces)) if pieces[i].isdigit() and _SERIES.search(pieces[i - 1])), 0)
    return ".".join(pieces[: number + 1])


def series_of(name: str) -> str:
    """The series of blocks that a weight belongs to: `unet.down_blocks` for any of its blocks, elsewhere the block."""
    block = block_of(name)
    series, _, last = block.rpartition(".")
    return series if last.isdigit() else block


def kind_of(name: str) -> str:
    """The kind of layer that a weight is, by its name; `other` where the name does not tell."""
    path = name.split(".", 1)[1]
    return next((kind for kind, marks in KINDS if any(mark in path for mark in marks)), "other")


_ONE_SEQUENCE = re.compile(r"\.relative_attention_bias$|^transformer\.(all_x_embedder|cap_embedder)\.")


def sees_one_sequence(name: str) -> bool:
    """Whether the layer is called once for all samples of a batch, without a dimension of samples.

    T5's table of relative positions is, and the embedders of Z-Image, which take tokens of one sample after another.
    """
    return _ONE_SEQUENCE.search(name) is not None


def natural_order(names: Iterable[str]) -> list[str]:
    """Names sorted, those of numbered blocks in numerical order."""
    return sorted(
        names,
        key=lambda name: [(piece.isdigit(), int(piece) if piece.isdigit() else 0, piece) for piece in name.split(".")],
    )


def grouped(names: Iterable[str], group_of: Callable[[str], str]) -> dict[str, list[str]]:
    """Weight names by their group (`block_of` or `kind_of`), the groups in natural order."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(group_of(name), []).append(name)
    return {group: groups[group] for group in natural_order(groups)}
