"""Conditions of prompts of unequal length: padded, chosen, joined, and taken apart again."""

from __future__ import annotations

import torch

from spectra.families.family import Condition

LISTS = [torch.arange(1.0, 1 + 2 * n).view(n, 2) for n in (3, 1, 2)]


def test_prompts_of_unequal_length_come_back_as_they_were() -> None:
    condition = Condition.of_lists(LISTS)
    assert condition.embeds.shape == (3, 3, 2)
    assert condition.mask is not None
    assert condition.mask.tolist() == [[True, True, True], [True, False, False], [True, True, False]]
    assert not condition.embeds[~condition.mask].any()
    assert all(map(torch.equal, condition.lists(), LISTS))


def test_rows_are_padded_no_further_than_they_need() -> None:
    rows = Condition.of_lists(LISTS).rows(torch.tensor([2, 1, 2]))
    assert rows.embeds.shape == (3, 2, 2)
    assert all(map(torch.equal, rows.lists(), [LISTS[2], LISTS[1], LISTS[2]]))


def test_joined_conditions_are_padded_to_the_longest() -> None:
    parts = [Condition.of_lists(LISTS[1:]), Condition.of_lists(LISTS[:1])]
    joined = Condition.joined(parts)
    assert joined.embeds.shape == (3, 3, 2)
    assert all(map(torch.equal, joined.lists(), [*LISTS[1:], LISTS[0]]))


def test_conditions_without_padding_keep_every_token_and_what_is_added() -> None:
    embeds, added = torch.randn(2, 4, 3), {"pooled": torch.randn(2, 5)}
    rows = Condition(embeds, added).rows(torch.tensor([1, 1, 0]))
    assert rows.mask is None
    assert torch.equal(rows.embeds, embeds[[1, 1, 0]])
    assert torch.equal(rows.added["pooled"], added["pooled"][[1, 1, 0]])
    assert all(map(torch.equal, Condition(embeds).lists(), embeds))
    joined = Condition.joined([Condition(embeds, added), rows])
    assert torch.equal(joined.embeds, torch.cat([embeds, rows.embeds]))
    assert torch.equal(joined.added["pooled"], torch.cat([added["pooled"], rows.added["pooled"]]))
