"""The attention function by itself: plans, tiles, gradients, refusals."""

import numpy as np
import pytest
import torch

from offon.models.packed import attention
from offon.models.packed.attention import (
    MaskSpec,
    Plan,
    Unsupported,
    attention_function,
    group_by_size,
    plain_attention,
)
from tests.rounding import FLOAT64

# A root of 4 rows with children of 2 and 3, a grandchild of 2 under the second child; a lone root of 5 in between.
FOREST = [(0, 4, -1), (4, 2, 0), (11, 3, 0), (14, 2, 2), (6, 5, -1)]
SEQUENCES = [[0, 1, 2, 3, 4, 5], [0, 1, 2, 3, 11, 12, 13, 14, 15], [6, 7, 8, 9, 10]]


class Layer(torch.nn.Module):
    layer_idx = 3


def heads(n_rows=16, n_query_heads=4, n_key_heads=2, width=6, value_width=6, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    shapes = [(n_query_heads, width), (n_key_heads, width), (n_key_heads, value_width)]
    return [torch.randn(1, h, n_rows, d, generator=generator, dtype=dtype).requires_grad_() for h, d in shapes]


def attend(query, key, value, plan, window=None, **options):
    return attention_function(Layer(), query, key, value, MaskSpec(plan, window), **options)[0][0]


def one_at_a_time(query, key, value, window=None, scale=None, **options):
    """Every sequence alone, row by row of the forest: the definition, with a dense mask."""
    out = {}
    for rows in SEQUENCES:
        q, k, v = (t[:, :, rows] for t in (query, key, value))
        k, v = (t.repeat_interleave(q.shape[1] // t.shape[1], 1) for t in (k, v))
        place = torch.arange(len(rows))
        allowed = place <= place[:, None]
        if window is not None:
            allowed &= place > place[:, None] - window
        o = plain_attention(q, k, v, allowed, scale or q.shape[-1] ** -0.5, **options)[0].transpose(0, 1)
        out |= dict(zip(rows, o, strict=True))
    return torch.stack([out[row] for row in range(len(out))])


CASES = {
    "plain": {},
    "window": dict(window=3),
    "window as long as the longest sequence": dict(window=9),
    "softcap": dict(softcap=1.5),
    "sinks": dict(sinks=torch.tensor([0.5, -1.0, 2.0, 0.0], dtype=torch.float64)),
    "all": dict(window=3, softcap=1.5, sinks=torch.tensor([0.5, -1.0, 2.0, 0.0], dtype=torch.float64), scale=0.7),
}


@pytest.mark.parametrize("value_width", [6, 4])
@pytest.mark.parametrize("case", CASES)
def test_a_forest_equals_its_sequences_one_at_a_time(case, value_width):
    options = CASES[case]
    qkv = heads(value_width=value_width)
    expected = one_at_a_time(*qkv, **options)
    renamed = {"scale": "scaling", "sinks": "s_aux"}
    ours = attend(*qkv, Plan(FOREST), **{renamed.get(name, name): setting for name, setting in options.items()})
    assert torch.allclose(ours, expected, atol=FLOAT64)
    weight = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for mine, theirs in zip(
        torch.autograd.grad((ours * weight).sum(), qkv),
        torch.autograd.grad((expected * weight).sum(), qkv),
        strict=True,
    ):
        assert torch.allclose(mine, theirs, atol=FLOAT64)


@pytest.mark.parametrize("window", [None, 3])
def test_gradients_agree_with_finite_differences(window):
    assert torch.autograd.gradcheck(lambda *qkv: attend(*qkv, Plan(FOREST), window), heads(width=3, value_width=3))


def test_a_row_sees_its_ancestors_and_itself_only():
    query, key, value = heads()
    out = attend(query, key, value, Plan(FOREST))
    (gradient,) = torch.autograd.grad(out[15].sum(), value)
    assert gradient[0].abs().sum((0, 2)).nonzero()[:, 0].tolist() == SEQUENCES[1]


def test_many_lengths_fall_into_several_tiles_and_the_result_is_the_same(monkeypatch):
    lengths = [1, 50, 2, 33, 7, 90, 3, 3, 64, 12]
    starts = np.cumsum([0, *lengths[:-1]])
    roots = [(int(s), n, -1) for s, n in zip(starts, lengths, strict=True)]
    children = [(265 + 4 * i, 4, i) for i in range(len(roots))]
    qkv = heads(n_rows=305)
    one = attend(*qkv, Plan(roots + children))
    monkeypatch.setattr(attention, "PAIRS_PER_CALL", 0)
    many = Plan(roots + children)
    assert torch.allclose(attend(*qkv, many), one, atol=FLOAT64)
    assert len(many.tiling(None, torch.device("cpu")).tiles) > 6


def test_grouping_covers_every_index_once_and_bounds_padding():
    random = np.random.default_rng(0)
    for _ in range(20):
        queries = random.integers(1, 200, size=60)
        keys = queries + random.integers(0, 300, size=60)
        groups = group_by_size(queries, keys)
        assert sorted(np.concatenate(groups).tolist()) == list(range(60))
        for group in groups:
            padded = len(group) * queries[group].max() * keys[group].max()
            useful = (queries[group] * keys[group]).sum()
            assert padded - useful <= max(attention.PAIRS_PER_CALL, attention.PADDING_SHARE * useful)


def test_similar_lengths_are_one_tile():
    random = np.random.default_rng(0)
    lengths = random.integers(11, 14, size=256)
    plan = Plan([(int(s), int(n), -1) for s, n in zip(lengths.cumsum() - lengths, lengths, strict=True)])
    assert len(plan.tiling(None, torch.device("cpu")).tiles) == 1


def test_positions_continue_those_of_the_parent():
    assert Plan(FOREST).positions.tolist() == [0, 1, 2, 3, 4, 5, 0, 1, 2, 3, 4, 4, 5, 6, 7, 8]


def test_overlapping_or_missing_rows_are_refused():
    for segments in ([(0, 3, -1), (2, 3, -1)], [(0, 3, -1), (4, 2, -1)]):
        with pytest.raises(ValueError, match="cover rows"):
            Plan(segments)


def test_keys_and_values_are_captured_flat_and_without_gradient():
    query, key, value = heads()
    plan = Plan(FOREST, capture={})
    attend(query, key, value, plan)
    captured = plan.capture[3]
    assert [tuple(t.shape) for t in captured] == [(16, 2, 6), (16, 2, 6)]
    assert torch.equal(captured[0], key[0].transpose(0, 1)) and not captured[0].requires_grad


def test_a_decoding_plan_is_asked_for_its_attention():
    class Store:
        longest = 7

        def attend(self, layer, query, key, value, *, scale, window, softcap, sinks):
            self.seen = (layer, query.shape, key.shape, value.shape, scale, window, softcap, sinks)
            return torch.ones(*query.shape[:2], value.shape[-1])

    store = Store()
    query, key, value = heads(n_rows=5, value_width=4)
    out, _ = attention_function(Layer(), query, key, value, MaskSpec(store, 8), scaling=0.3, softcap=2.0, offon=store)
    assert out.shape == (1, 5, 4, 4)
    assert store.seen == (3, (5, 4, 6), (5, 2, 6), (5, 2, 4), 0.3, 8, 2.0, None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(dropout=0.1), "dropout"),
        (dict(is_causal=False), "not causal"),
        (dict(position_bias=torch.zeros(1)), "position_bias"),
        (dict(sliding_window=5), "window of 5 under a mask of 3"),
    ],
)
def test_what_is_not_understood_is_refused(options, message):
    with pytest.raises(Unsupported, match=message):
        attend(*heads(), Plan(FOREST), 3, **options)


def test_a_mask_tensor_beside_a_plan_is_refused():
    with pytest.raises(Unsupported, match="own attention mask"):
        attention_function(Layer(), *heads(), torch.ones(16, 16), offon=Plan(FOREST))


def test_masks_are_read_by_their_meaning():
    from transformers import masking_utils as masks

    shape = dict(batch_size=1, q_length=16, kv_length=16)
    token = attention.ACTIVE.set(Plan(FOREST))
    try:
        causal = attention.build_mask(mask_function=masks.causal_mask_function, **shape)
        assert causal.window is None
        sliding = masks.sliding_window_causal_mask_function(4)
        assert attention.build_mask(mask_function=sliding, local_size=4, **shape).window == 4
        chunked = masks.chunked_causal_mask_function(4, torch.zeros(1, dtype=torch.long))
        with pytest.raises(Unsupported, match="chunks of 4, sequences up to 9"):
            attention.build_mask(mask_function=chunked, local_size=4, **shape)
        two_way = masks.or_masks(masks.causal_mask_function, masks.blockwise_overlay(torch.zeros(1, 16)))
        for refused in (two_way, masks.bidirectional_mask_function):
            with pytest.raises(Unsupported, match="mask made of"):
                attention.build_mask(mask_function=refused, **shape)
    finally:
        attention.ACTIVE.reset(token)


def test_without_a_plan_the_mask_is_an_ordinary_tensor():
    from transformers import masking_utils as masks

    sliding = masks.sliding_window_causal_mask_function(2)
    mask = attention.build_mask(batch_size=1, q_length=4, kv_length=4, mask_function=sliding, local_size=2)
    assert mask[0, 0].int().tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 1]]
