"""Decoding inside any transformers model: the KV store that stands behind the attention function, one query per slot.

A slot is a sequence being generated. Its keys are those of its prompt, stored once and read by every slot that shares
the prompt, followed by its own:

    scores of a slot = [ q . prompt block | q . own block ]  ->  one softmax  ->  weights . values

The store keeps slots and prompt blocks dense: releasing a slot moves the last one into its place, so every read is a
view of a contiguous range and no step gathers KV memory. Memory follows what is really in use, within GROWTH places.

Axes: B active slots, U prompt blocks in use, G grid rows of W slots each (see `Grid`), Hq query heads, Hk key heads,
R = Hq / Hk, P prompt columns, S own columns, D query and key width, Dv value width, E model width.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

VECTOR = 16  # float32 lanes of a wide CPU register: softmax and products over fewer columns are several times slower
GROWTH = 64  # places or columns by which a large store grows


@dataclass(frozen=True, eq=False)
class Prompt:
    """A prefix after its one forward pass: what its continuations need of it.

    hidden [E] predicts the first new token; kv: layer -> keys [length, Hk, D] and values [length, Hk, Dv] as attention
    saw them, after rotary embedding.
    """

    length: int
    hidden: Tensor
    kv: Mapping[int, tuple[Tensor, Tensor]]

    @property
    def bytes_per_token(self) -> int:
        return sum(t[0].numel() * t.element_size() for pair in self.kv.values() for t in pair)


@dataclass(frozen=True, eq=False)
class Grid:
    """Slots laid out by the prompt they read: row g holds up to W slots of block[g], so that one matrix product per row
    scores them all against one copy of the prompt. A prompt with more than W slots has several rows.

    Indices are None where they would be the identity.
    """

    rows: int
    width: int
    block: Tensor | None  # [G] the prompt block that each row reads
    slot: Tensor | None  # [G * W] the slot in each cell; unused cells repeat slot 0 and are never read back
    cell: Tensor | None  # [B] the cell of each slot

    @staticmethod
    def of(block_B: np.ndarray, n_blocks: int, device) -> Grid:
        """Rows as wide as the largest group, or, where that would leave most cells empty, as the mean group.

        The second choice bounds the grid: at most 2U rows, hence 2(U + B) cells, whatever the group sizes.
        """
        n_slots = len(block_B)
        size_U = np.bincount(block_B, minlength=n_blocks)
        width = int(size_U.max())
        if width * n_blocks > 2 * n_slots:
            width = -(-n_slots // n_blocks)
        rows_U = -(-size_U // width)
        first_row_U = np.cumsum(rows_U) - rows_U
        order = np.argsort(block_B, kind="stable")
        rank = np.empty(n_slots, np.int64)  # of a slot among those of its prompt
        rank[order] = np.arange(n_slots) - np.repeat(np.cumsum(size_U) - size_U, size_U)
        cell = first_row_U[block_B] * width + rank
        rows = int(rows_U.sum())
        slot = np.zeros(rows * width, np.int64)
        slot[cell] = np.arange(n_slots)
        straight = rows * width == n_slots and bool((cell == np.arange(n_slots)).all())

        def index(values: np.ndarray, identity: bool) -> Tensor | None:
            return None if identity else torch.from_numpy(values).to(device)

        return Grid(
            rows=rows,
            width=width,
            block=index(np.repeat(np.arange(n_blocks), rows_U), rows == n_blocks),
            slot=index(slot, straight),
            cell=index(cell, straight),
        )

    def scores(self, query: Tensor, keys: Tensor) -> Tensor:
        """query [B, Hk, R, D] against the prompt keys [U, Hk, P, D] of each slot -> [B, Hk, R, P]."""
        return self._per_slot(torch.matmul(self._per_row(query), _take(keys, self.block).transpose(2, 3)))

    def mix(self, weights: Tensor, values: Tensor) -> Tensor:
        """weights [B, Hk, R, P] over the prompt values [U, Hk, P, Dv] of each slot -> [B, Hk, R, Dv]."""
        return self._per_slot(torch.matmul(self._per_row(weights), _take(values, self.block)))

    def _per_row(self, x: Tensor) -> Tensor:
        """[B, Hk, R, X] -> [G, Hk, W * R, X]."""
        _, heads, repeat, last = x.shape
        cells = _take(x, self.slot).view(self.rows, self.width, heads, repeat, last)
        return cells.transpose(1, 2).reshape(self.rows, heads, self.width * repeat, last)

    def _per_slot(self, x: Tensor) -> Tensor:
        """[G, Hk, W * R, X] -> [B, Hk, R, X]."""
        _, heads, grouped, last = x.shape
        cells = x.view(self.rows, heads, self.width, grouped // self.width, last).transpose(1, 2)
        return _take(cells.reshape(self.rows * self.width, heads, -1, last), self.cell)


class DecodeState:
    """KV of the sequences being generated, and the plan (`attention.Decoding`) of a step that feeds each one token.

        state = DecodeState(device)
        state.bind([prompt, prompt])               # two slots on one prompt
        positions = state.begin()                  # once per step; then model.flat(ids, positions, state)
        holes, movers = state.release([0])         # slot 1 now lives in place 0

    Active slots are always 0..len(state)-1. Lengths and bindings live on the host, tensors on the device.
    """

    def __init__(self, device: torch.device | str):
        self.device = torch.device(device)
        self.block_B = np.zeros(0, np.int64)  # the prompt block of each slot
        self.own_B = np.zeros(0, np.int64)  # tokens of each slot already stored
        self.prompts: list[Prompt] = []  # by block
        self._prompt_kv: dict[int, tuple[Tensor, Tensor]] = {}  # layer -> [blocks, Hk, P, D], [blocks, Hk, P, Dv]
        self._own_kv: dict[int, tuple[Tensor, Tensor]] = {}  # layer -> [slots, Hk, S, D], [slots, Hk, S, Dv]
        self._grid: Grid | None = None

    def __len__(self) -> int:
        return len(self.block_B)

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence, the one being fed included."""
        return int((self._prompt_length_B + self.own_B).max())

    def bind(self, prompts: Sequence[Prompt]) -> None:
        """Append one slot per entry; a prompt that no slot reads yet gets a block."""
        if not prompts:
            return
        block_of = {id(prompt): block for block, prompt in enumerate(self.prompts)}
        fresh = [prompt for prompt in dict.fromkeys(prompts) if id(prompt) not in block_of]
        block_of |= {id(prompt): len(self.prompts) + i for i, prompt in enumerate(fresh)}
        self._store(fresh)
        self.block_B = np.append(self.block_B, [block_of[id(prompt)] for prompt in prompts])
        self.own_B = np.append(self.own_B, np.zeros(len(prompts), np.int64))
        self._grid = None

    def fork(self, slots: np.ndarray) -> None:
        """Slot j becomes a copy of slot slots[j]; a slot may be copied any number of times, or left behind, and prompt
        blocks with it."""
        index = torch.from_numpy(np.asarray(slots, np.int64)).to(self.device)
        if self.own_B.max(initial=0) > 0:
            self._own_kv = {layer: tuple(t[: len(self)][index] for t in kv) for layer, kv in self._own_kv.items()}
        self.block_B, self.own_B = self.block_B[slots], self.own_B[slots]
        self._forget_unread()

    def release(self, slots: Sequence[int] | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Forget slots, and the prompt blocks nobody reads any more.

        Returns (holes, movers): what was in place movers[i] is now in place holes[i]. Columns that the caller keeps by
        slot move the same way and are cut to the new length.
        """
        holes, movers, n_slots = compaction(slots, len(self))
        fed = self.own_B[movers] > 0  # a slot that was never fed has nothing stored, perhaps not even a place
        _move(self._own_kv, holes[fed], movers[fed], columns=int(self.own_B.max(initial=0)))
        self.block_B = _moved(self.block_B, holes, movers, n_slots)
        self.own_B = _moved(self.own_B, holes, movers, n_slots)
        self._forget_unread()
        return holes, movers

    def _forget_unread(self) -> None:
        unread = np.flatnonzero(np.bincount(self.block_B, minlength=len(self.prompts)) == 0)
        block_holes, block_movers, n_blocks = compaction(unread, len(self.prompts))
        _move(self._prompt_kv, block_holes, block_movers, columns=max(prompt.length for prompt in self.prompts))
        place = np.arange(len(self.prompts))
        place[block_movers] = block_holes
        self.block_B = place[self.block_B]
        for hole, mover in zip(block_holes, block_movers, strict=True):
            self.prompts[hole] = self.prompts[mover]
        del self.prompts[n_blocks:]
        self._grid = None

    def begin(self) -> Tensor:
        """Open a step: every slot is fed one token. Returns their positions [B]."""
        if self._grid is None:
            self._grid = Grid.of(self.block_B, len(self.prompts), self.device)
            self._prompt_length_B = np.array([prompt.length for prompt in self.prompts])[self.block_B]
        self._write_B = torch.from_numpy(self.own_B).to(self.device)
        self._slots_B = torch.arange(len(self), device=self.device)
        self._length_B = torch.from_numpy(self._prompt_length_B).to(self.device)
        self._position_B = self._length_B + self._write_B
        self._P, self._S = _whole(int(self._prompt_length_B.max())), _whole(int(self.own_B.max()) + 1)
        self._bias: dict[int | None, Tensor] = {}  # by window
        self.own_B = self.own_B + 1
        return self._position_B

    def attend(
        self,
        layer: int,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        *,
        scale: float,
        window: int | None = None,
        softcap: float | None = None,
        sinks: Tensor | None = None,
    ) -> Tensor:
        """Store this step's key [B, Hk, D] and value [B, Hk, Dv] of every slot; attend with query [B, Hq, D].

        Returns [B, Hq, Dv]. window: a query sees the last `window` positions, its own included. softcap c: scores
        become c tanh(score / c). sinks [Hq]: one learned score per head that takes weight and gives nothing.
        """
        n_slots, query_heads, _ = query.shape
        heads = key.shape[1]
        own_keys, own_values = self._append(layer, key, value)
        prompt_keys, prompt_values = (t[: len(self.prompts), :, : self._P] for t in self._prompt_kv[layer])

        query = (query * scale).view(n_slots, heads, query_heads // heads, -1)
        scores = torch.cat(
            [self._grid.scores(query, prompt_keys), torch.matmul(query, own_keys.transpose(2, 3))], dim=-1
        )
        if softcap is not None:
            scores = torch.tanh(scores / softcap) * softcap
        scores = scores + self._bias_of(window, scores.dtype)
        if sinks is not None:
            sink = sinks.to(scores.dtype).view(1, heads, -1, 1).expand(n_slots, -1, -1, 1)
            scores = torch.cat([scores, sink], dim=-1)
        weights = torch.softmax(scores, dim=-1, dtype=torch.promote_types(scores.dtype, torch.float32)).to(value.dtype)
        on_prompt, on_own = weights[..., : self._P], weights[..., self._P : self._P + self._S]
        out = self._grid.mix(on_prompt, prompt_values) + torch.matmul(on_own, own_values)
        return out.reshape(n_slots, query_heads, -1)

    def _append(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Write one column per slot. Returns the slots' own keys [B, Hk, S, D] and values [B, Hk, S, Dv]."""
        store = self._own_kv.get(layer) or (_no_memory(key), _no_memory(value))
        store = self._own_kv[layer] = tuple(_grown(t, len(self), self._S) for t in store)
        for memory, column in zip(store, (key, value), strict=True):
            memory[self._slots_B, :, self._write_B] = column
        keys, values = (t[: len(self), :, : self._S] for t in store)
        return keys, values

    def _store(self, fresh: Sequence[Prompt]) -> None:
        """Copy the KV of new prompts into blocks of their own."""
        if not fresh:
            return
        lengths = np.array([prompt.length for prompt in fresh])
        block_N = np.repeat(len(self.prompts) + np.arange(len(fresh)), lengths)
        column_N = np.arange(lengths.sum()) - np.repeat(lengths.cumsum() - lengths, lengths)
        block_N, column_N = (torch.from_numpy(index).to(self.device) for index in (block_N, column_N))
        columns = _whole(int(lengths.max()))
        self.prompts.extend(fresh)
        for layer, example in fresh[0].kv.items():
            store = self._prompt_kv.get(layer) or tuple(_no_memory(t) for t in example)
            store = self._prompt_kv[layer] = tuple(_grown(t, len(self.prompts), columns) for t in store)
            for kind, memory in enumerate(store):
                memory[block_N, :, column_N] = torch.cat([prompt.kv[layer][kind] for prompt in fresh])

    def _bias_of(self, window: int | None, dtype: torch.dtype) -> Tensor:
        """[B, 1, 1, P + S]: -inf on the columns that a slot does not see. Built once per step and window."""
        if window not in self._bias:
            column = torch.arange(self._P + self._S, device=self.device)
            length, position = self._length_B[:, None], self._position_B[:, None]
            own = column >= self._P
            key_position = torch.where(own, column - self._P + length, column)
            seen = torch.where(own, key_position <= position, column < length)
            if window is not None:
                seen &= key_position > position - window
            bias = torch.zeros(seen.shape, dtype=dtype, device=self.device).masked_fill_(~seen, -torch.inf)
            self._bias[window] = bias[:, None, None]
        return self._bias[window]


def _take(x: Tensor, index: Tensor | None) -> Tensor:
    return x if index is None else x.index_select(0, index)


def _no_memory(like: Tensor) -> Tensor:
    """A store without places for rows [N, H, D] of this kind."""
    return like.new_zeros(0, like.shape[1], 0, like.shape[2])


def _grown(store: Tensor, places: int, columns: int) -> Tensor:
    """store [places, H, columns, D] with at least this many places and columns.

    New memory is zero: a column that nobody sees still meets a weight of 0, and 0 * nan is nan.
    """
    have_places, heads, have_columns, width = store.shape
    if places <= have_places and columns <= have_columns:
        return store
    grown = store.new_zeros(_enlarged(have_places, places), heads, _enlarged(have_columns, columns), width)
    grown[:have_places, :, :have_columns] = store
    return grown


def _whole(columns: int) -> int:
    """The number of columns that are read for `columns` in use: whole vectors."""
    return -(-columns // VECTOR) * VECTOR


def _enlarged(have: int, need: int) -> int:
    """Double while small, then add GROWTH: copying everything once in 64 steps is little beside reading it in each."""
    return have if need <= have else max(need, min(2 * have, have + GROWTH))


def compaction(removed, count: int) -> tuple[np.ndarray, np.ndarray, int]:
    """The moves that close the gaps left by `removed` places of 0..count-1: (holes, movers, new count)."""
    kept = np.ones(count, bool)
    kept[removed] = False
    left = int(kept.sum())
    return np.flatnonzero(~kept[:left]), left + np.flatnonzero(kept[left:]), left


def _moved(column: np.ndarray, holes: np.ndarray, movers: np.ndarray, count: int) -> np.ndarray:
    column[holes] = column[movers]
    return column[:count]


def _move(kv: Mapping[int, tuple[Tensor, Tensor]], holes: np.ndarray, movers: np.ndarray, columns: int) -> None:
    if len(holes):
        for memory in itertools.chain.from_iterable(kv.values()):
            memory[holes, :, :columns] = memory[movers, :, :columns]
