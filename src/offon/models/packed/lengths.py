"""What a model makes of the length of a sequence, or of the size of a pack, and how a batch is split so that nothing
but a sequence's own length reaches it.

Most models see positions, and a sequence in a pack has its own. Two kinds see more:

    turn   the rotary factors of the whole sequence change where it has more than `turn` tokens: at once (longrope,
           arXiv:2402.13753), or with every further token (dynamic NTK). transformers reads the length off the largest
           position of a call, so a long sequence would change the short ones beside it.
    rows   packs are exact up to so many rows only: an attention temperature that counts the rows of a call (Llama 4),
           attention in chunks. Larger batches are split, and longer sequences take the padded path.

A sequence's length counts all its tokens, the last one too, which predicts nothing: it is what the model's own forward
on the whole sequence is given.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from offon.models.packed.layout import Layout

Turning = Literal["longrope", "dynamic"]


@dataclass(frozen=True)
class Lengths:
    """turn: the length beyond which rotary factors change, in the way of `kind`. rows: the largest exact pack.

    alone: padded batches hold one sequence each, for models that are not indifferent to padding on the right.
    """

    kind: Turning | None = None
    turn: int | None = None
    rows: int | None = None
    alone: bool = False

    def kinds(self, n_tokens: np.ndarray) -> np.ndarray:
        """One number for each sequence, equal where the model computes them with the same factors; 0 up to the turn."""
        if self.turn is None:
            return np.zeros_like(n_tokens)
        return np.where(n_tokens > self.turn, n_tokens if self.kind == "dynamic" else 1, 0)


@dataclass(frozen=True, eq=False)
class Part:
    """Sequences of a layout that are computed together, by number, with a layout of their own."""

    members: np.ndarray
    layout: Layout
    packed: bool


def parts(layout: Layout, lengths: Lengths, packed: bool) -> Iterator[Part]:
    """The layout in parts whose members do not change each other; itself, where that is one part."""
    n_tokens = np.array([len(prefix) + len(response) for prefix, response in layout.sequences])
    kinds = lengths.kinds(n_tokens)
    everyone = np.arange(len(n_tokens))
    fits = lengths.rows is None or layout.n_rows <= lengths.rows
    if not kinds.any() and (not packed or fits):
        yield Part(everyone, layout, packed)
        return
    for kind in np.unique(kinds):
        for members, together in _within(everyone[kinds == kind], n_tokens, lengths.rows if packed else None, packed):
            chosen = [layout.sequences[member] for member in members]
            yield Part(members, Layout.of(chosen, place=layout.place, whole=kind > 0), together)


def _within(members: np.ndarray, n_tokens: np.ndarray, rows: int | None, packed: bool):
    """(members, whether they are packed): in order, as many as fit into `rows` without sharing their prefixes."""
    if rows is None:
        yield members, packed
        return
    short = members[n_tokens[members] <= rows]
    filled = np.zeros(len(short), dtype=np.int64)
    pack = room = 0
    for i, size in enumerate(n_tokens[short].tolist()):
        pack, room = (pack, room - size) if size <= room else (pack + 1, rows - size)
        filled[i] = pack
    for number in np.unique(filled):
        yield short[filled == number], True
    if len(long := members[n_tokens[members] > rows]):
        yield long, False


def gathered(layout: Layout, computed: list[tuple[np.ndarray, Tensor]]) -> Tensor:
    """The hidden states [M, D] of all targets, from (members, their targets' hidden states) of every part."""
    sequence = layout.sequence.numpy()
    order = np.concatenate([np.flatnonzero(np.isin(sequence, members)) for members, _ in computed])
    states = torch.cat([hidden for _, hidden in computed])
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    return states.index_select(0, torch.from_numpy(place).to(states.device))


# Settings by which transformers' models behave differently beyond a number of tokens; all are read at run time.
THRESHOLDS = ("sliding_window", "attention_chunk_size", "floor_scale", "index_topk", "window_size")
ROWS = ("attention_chunk_size", "floor_scale")  # those that a pack cannot reproduce


def lengths_of(core: nn.Module) -> Lengths:
    """What the configuration says: the turn of its rotary factors, and the sizes that a pack must not exceed."""
    turns = [(kind, turn) for _, kind, turn in _ropes(core)]
    if not turns:
        return Lengths()
    # With several of them, the sequences of every length beyond the first are kept apart: right for each.
    kind = turns[0][0] if len(set(turns)) == 1 else "dynamic"
    return Lengths(kind, min(turn for _, turn in turns))


def thresholds(core: nn.Module) -> dict[str, int]:
    """The settings of THRESHOLDS that the model has, each with its smallest number."""
    smallest: dict[str, int] = {}
    for config in configs(core):
        for name in THRESHOLDS:
            number = getattr(config, name, None)
            if isinstance(number, int) and not isinstance(number, bool) and number > 0:
                smallest[name] = min(number, smallest.get(name, number))
    return smallest


def configs(core: nn.Module) -> list[Any]:
    """Every configuration that the model's modules read."""
    own = [config for module in core.modules() if (config := getattr(module, "config", None)) is not None]
    return list({id(config): config for config in [core.config, core.config.get_text_config(), *own]}.values())


def _ropes(core: nn.Module) -> Iterator[tuple[nn.Module, Turning, int]]:
    """(rotary module, kind, turn) of every rotary embedding whose factors follow the length."""
    for module in core.modules():
        kinds = getattr(module, "rope_type", None)
        settings = getattr(getattr(module, "config", None), "rope_parameters", None)
        if kinds is None or not settings:
            continue
        by_layer = kinds if isinstance(kinds, dict) else {None: kinds}
        for layer, kind in by_layer.items():
            own = settings if layer is None else settings[layer]
            if kind == "longrope":
                yield module, "longrope", own["original_max_position_embeddings"]
            elif isinstance(kind, str) and "dynamic" in kind:
                yield module, "dynamic", module.original_max_seq_len


def forget_lengths(core: nn.Module) -> None:
    """Dynamic factors of transformers stay those of the longest sequence seen before: back to those of short ones."""
    for module, kind, turn in _ropes(core):
        if kind != "dynamic":
            continue
        names = [name for name, _ in module.named_buffers(recurse=False) if name.endswith("original_inv_freq")]
        for name in names:
            prefix = name.removesuffix("original_inv_freq")
            module.register_buffer(f"{prefix}inv_freq", module.get_buffer(name), persistent=False)
            setattr(module, f"{prefix}max_seq_len_cached", turn)
