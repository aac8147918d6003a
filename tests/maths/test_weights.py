"""The denominators, by hand: two sequences of 1 and 9 tokens."""

from __future__ import annotations

import pytest
import torch

from offon.maths.weights import equal_weights, token_weights, weights_within

SEQUENCE = torch.tensor([0] + [1] * 9)
ALL = torch.ones(10, dtype=torch.bool)


@pytest.mark.parametrize(
    "reduce, length, short, long",
    [
        ("per_token", None, 1 / 10, 1 / 10),
        ("per_sequence", None, 1 / 2, 1 / 18),
        ("per_sequence_sum", None, 1 / 2, 1 / 2),
        ("constant", 20, 1 / 40, 1 / 40),
    ],
)
def test_each_reduction_by_hand(reduce, length, short, long):
    weights = token_weights(ALL, SEQUENCE, 2, reduce, length=length)
    assert weights[0].item() == pytest.approx(short) and weights[5].item() == pytest.approx(long)


def test_one_sequence_makes_token_and_sequence_means_equal():
    sequence = torch.zeros(4, dtype=torch.long)
    mask = torch.tensor([True, True, False, True])
    assert torch.equal(token_weights(mask, sequence, 1, "per_token"), token_weights(mask, sequence, 1, "per_sequence"))


def test_masking_equals_slicing():
    mask = torch.tensor([True] * 6 + [False] * 4)
    for reduce in ("per_token", "per_sequence", "per_sequence_sum"):
        whole = token_weights(mask, SEQUENCE, 2, reduce)
        sliced = token_weights(mask[:6], SEQUENCE[:6], 2, reduce)
        assert torch.allclose(whole[:6], sliced) and not whole[6:].any()


def test_an_empty_sequence_is_not_counted():
    """Three sequences, the second has no selected token: N is 2."""
    sequence = torch.tensor([0, 1, 2])
    weights = token_weights(torch.tensor([True, False, True]), sequence, 3, "per_sequence")
    assert weights.tolist() == [0.5, 0.0, 0.5]


def test_nothing_selected_gives_zero_weights_not_a_division_by_zero():
    for reduce in ("per_token", "per_sequence", "per_sequence_sum"):
        assert not token_weights(~ALL, SEQUENCE, 2, reduce).any()


def test_the_population_can_be_larger_than_the_selection():
    """LUFFY: a term sums over its own tokens and divides by all trained ones."""
    own = torch.tensor([True] + [False] * 9)
    assert token_weights(own, SEQUENCE, 2, "per_token", population_M=ALL).sum().item() == pytest.approx(0.1)


def test_pairs_weigh_the_same_and_sum_to_one():
    assert equal_weights(torch.ones(4)).tolist() == [0.25] * 4 and len(equal_weights(torch.ones(0))) == 0
    assert equal_weights(torch.tensor([1, 0, 1])).tolist() == [0.5, 0.0, 0.5]


def test_per_prompt_a_prompt_counts_once_however_many_pairs_it_has():
    """Prompt 0 has three pairs, prompt 1 none, prompt 2 one: 1/2 shared by three, and 1/2."""
    weights = weights_within(torch.tensor([0, 0, 0, 2]), 3)
    assert weights.tolist() == pytest.approx([1 / 6, 1 / 6, 1 / 6, 1 / 2])
