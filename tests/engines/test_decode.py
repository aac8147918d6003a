"""The key-value store alone: attention equal to the plain formula for any history of bindings and releases."""

import numpy as np
import pytest
import torch

from offon.models.decode import GROWTH, DecodeState, Grid, Prompt
from offon.models.packed.attention import plain_attention
from tests.rounding import FLOAT32

HQ, HK, D, DV, LAYERS = 4, 2, 6, 5, 2


def new_prompt(length: int) -> Prompt:
    kv = {layer: (torch.randn(length, HK, D), torch.randn(length, HK, DV)) for layer in range(LAYERS)}
    return Prompt(length=length, hidden=torch.zeros(1), kv=kv)


class Shadow:
    """The same slots, each with its own plain list of keys and values."""

    def __init__(self):
        self.rows: list[dict] = []

    def bind(self, prompts):
        self.rows += [{layer: tuple(t.clone() for t in p.kv[layer]) for layer in range(LAYERS)} for p in prompts]

    def release(self, slots, holes, movers):
        for hole, mover in zip(holes, movers, strict=True):
            self.rows[hole] = self.rows[mover]
        del self.rows[len(self.rows) - len(slots) :]

    def attend(self, layer, query, key, value, *, scale, window, softcap, sinks):
        outputs = []
        for slot, row in enumerate(self.rows):
            keys, values = (torch.cat([t, new[slot][None]]) for t, new in zip(row[layer], (key, value), strict=True))
            row[layer] = (keys, values)
            seen = torch.arange(len(keys)) > (len(keys) - 1 - window if window else -1)
            k, v = (t.repeat_interleave(HQ // HK, 1).transpose(0, 1)[None] for t in (keys, values))
            out = plain_attention(query[slot][None, :, None], k, v, seen[None, None, None], scale, softcap, sinks)
            outputs.append(out[0, :, 0])
        return torch.stack(outputs)


@pytest.mark.parametrize(
    "kind", [dict(), dict(window=3), dict(window=20), dict(softcap=0.7), dict(window=5, softcap=2.0, sinks=True)]
)
def test_any_history_of_bindings_equals_the_plain_formula(kind):
    """150 steps in which slots come and go at random, alone and in groups, on new prompts and on those in use; own
    sequences outgrow the store's first allocations."""
    kind = dict(window=None, softcap=None, sinks=None) | kind
    if kind["sinks"]:
        kind["sinks"] = torch.randn(HQ)
    random = np.random.default_rng(0)
    state, shadow, worst, most_blocks = DecodeState("cpu"), Shadow(), 0.0, 0
    for step in range(150):
        if len(state) < 9 and (step % 5 == 0 or not len(state)):
            prompts = [new_prompt(int(random.integers(1, 40))) for _ in range(random.integers(1, 4))]
            prompts = [p for p in prompts for _ in range(random.integers(1, 5))] + state.prompts[:1]
            state.bind(prompts)
            shadow.bind(prompts)
            unfed = [0, len(state) - 1]  # some leave before their first step
            shadow.release(unfed, *state.release(unfed))
        expected = torch.tensor([len(row[0][0]) for row in shadow.rows])
        assert state.begin().equal(expected) and state.longest == expected.max() + 1
        for layer in range(LAYERS):
            q, k, v = torch.randn(len(state), HQ, D), torch.randn(len(state), HK, D), torch.randn(len(state), HK, DV)
            difference = state.attend(layer, q, k, v, scale=0.4, **kind) - shadow.attend(
                layer, q, k, v, scale=0.4, **kind
            )
            worst = max(worst, float(difference.abs().max()))
        gone = np.flatnonzero(random.random(len(state)) < 0.04)
        shadow.release(gone, *state.release(gone))
        most_blocks = max(most_blocks, len(state.prompts))
        assert len(state) == len(shadow.rows) and len(state.prompts) <= len(state)
    assert worst < FLOAT32 and most_blocks > 3
    assert max(len(row[0][0]) for row in shadow.rows) > 32


def test_a_prompt_block_lives_as_long_as_a_slot_reads_it():
    state = DecodeState("cpu")
    first, second = new_prompt(4), new_prompt(9)
    state.bind([first, second, first])
    state.release([0])
    assert state.prompts == [first, second]
    state.release([0])  # the other reader of `first` had moved into place 0
    assert state.prompts == [second]
    state.bind([first])
    assert state.prompts == [second, first] and len(state) == 2
    state.release([0, 1])
    assert state.prompts == [] and len(state) == 0


def test_memory_follows_use_within_growth():
    """One slot for 200 steps beside a prompt of 30 tokens: no more columns than used, whole vectors and one GROWTH."""
    state = DecodeState("cpu")
    state.bind([new_prompt(30)])
    for _ in range(200):
        state.begin()
        for layer in range(LAYERS):
            state.attend(layer, torch.zeros(1, HQ, D), torch.zeros(1, HK, D), torch.zeros(1, HK, DV), scale=1.0)
    stores = [*state._own_kv.values(), *state._prompt_kv.values()]
    columns = sum(memory.shape[0] * memory.shape[2] for store in stores for memory in store[:1]) / LAYERS
    assert columns <= 200 + 30 + GROWTH + 16


@pytest.mark.parametrize("sizes", [[5], [1] * 12, [4, 4, 4], [128, *[1] * 300], [3, 60, 128, 128, 65], [1, 2, 3, 40]])
def test_the_grid_is_small_and_every_slot_has_its_cell(sizes):
    """At most 2U rows and 2(U + B) cells for U prompts and B slots, however uneven the groups."""
    blocks = np.random.default_rng(0).permutation(np.repeat(np.arange(len(sizes)), sizes))
    grid = Grid.of(blocks, len(sizes), "cpu")
    cells = grid.rows * grid.width
    assert grid.rows <= 2 * len(sizes) and len(blocks) <= cells <= 2 * (len(sizes) + len(blocks))
    cell = np.arange(cells) if grid.cell is None else grid.cell.numpy()
    slot = np.arange(cells) if grid.slot is None else grid.slot.numpy()
    block = np.arange(grid.rows) if grid.block is None else grid.block.numpy()
    assert np.array_equal(slot[cell], np.arange(len(blocks))) and len(set(cell)) == len(blocks)
    assert np.array_equal(block[cell // grid.width], blocks)


def test_even_groups_in_order_need_no_gather():
    grid = Grid.of(np.repeat(np.arange(4), 8), 4, "cpu")
    assert (grid.rows, grid.width, grid.block, grid.slot, grid.cell) == (4, 8, None, None, None)
