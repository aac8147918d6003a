"""A batch of sequences as one flat buffer without padding, in which equal prefixes are computed once.

Legend: N rows of the buffer, S segments, M targets (all response tokens), B sequences.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from offon.models.packed.attention import Plan

Place = Literal["before", "at"]  # where a target is read: in the row that predicts it, or in its own


@dataclass(frozen=True, eq=False)
class Layout:
    """Where every token of a batch lies, and in which row's hidden state each target is read: "before" it, in the row
    that predicts it (log-probs, values), or "at" its own (scores of what was written).

    The last token of a response predicts nothing, and has a row only where targets are read at their own.
    With prefix [1, 4] and responses [5, 6, 2], [5, 2], read before:

        row        0  1 | 2  3 | 4              segments (0, 2, -1), (2, 2, 0), (4, 1, 0)
        ids        1  4 | 5  6 | 5
        positions  0  1 | 2  3 | 2
        rows       1  2  3 | 1  4               (the prefix's last row predicts every first token)
        targets    5  6  2 | 5  2
        sequence   0  0  0 | 1  1

    ids, positions [N]; segments [S, 3] (see Plan); rows, targets, sequence [M], in the order of the sequences;
    lengths: response tokens of each sequence; leaf [B]: the segment in which each sequence ends; sequences, place: what
    it was made of.
    """

    ids: Tensor
    positions: Tensor
    segments: np.ndarray
    rows: Tensor
    targets: Tensor
    sequence: Tensor
    lengths: list[int]
    leaf: np.ndarray
    plan: Plan
    sequences: Sequence[tuple[Sequence[int], Sequence[int]]]
    place: Place

    @staticmethod
    def of(
        sequences: Sequence[tuple[Sequence[int], Sequence[int]]],
        *,
        share: bool = True,
        place: Place = "before",
        whole: bool = False,
    ) -> Layout:
        """Lay out (prefix, response) pairs. share=False gives every sequence its own copy of its prefix; whole=True
        gives the last token of a response a row even if nothing is read there."""
        empty = [index for index, (prefix, _) in enumerate(sequences) if not len(prefix)]
        if empty or not sequences:
            raise ValueError(
                f"sequences {empty[:5]} of {len(sequences)} have an empty prefix: nothing predicts their first token"
                if empty
                else "a layout of no sequences"
            )
        families = _families([prefix for prefix, _ in sequences], share)
        lengths = np.array([len(response) for _, response in sequences])

        pieces: list[np.ndarray] = []
        piece_lengths: list[int] = []
        parents: list[int] = []
        leaf, root = np.empty(len(sequences), dtype=np.int64), np.empty(len(sequences), dtype=np.int64)
        prefix_length = np.array([len(prefix) for prefix, _ in sequences])

        def segment(*parts: Sequence[int], parent: int) -> int:
            arrays = [np.asarray(part, dtype=np.int64) for part in parts]
            pieces.extend(arrays)
            piece_lengths.append(sum(map(len, arrays)))
            parents.append(parent)
            return len(parents) - 1

        fed = [response if whole or place == "at" else response[:-1] for _, response in sequences]
        for members in families:
            prefix = sequences[members[0]][0]
            if len(members) == 1:
                leaf[members] = root[members] = segment(prefix, fed[members[0]], parent=-1)
                continue
            root[members] = top = segment(prefix, parent=-1)
            for member in members:
                leaf[member] = segment(fed[member], parent=top) if len(fed[member]) else top

        length = np.array(piece_lengths)
        start = length.cumsum() - length
        segments = np.stack([start, length, np.array(parents)], axis=1)
        plan = Plan(segments)

        # The first target of a sequence is predicted by the last row of its prefix, target t by the row of token t - 1.
        sequence = np.repeat(np.arange(len(sequences)), lengths)
        step = np.arange(len(sequence)) - np.repeat(lengths.cumsum() - lengths, lengths)
        before = start[root] + prefix_length
        own = np.where(leaf == root, before, start[leaf])
        at = own[sequence] + step
        rows = at if place == "at" else np.where(step == 0, before[sequence] - 1, at - 1)
        responses = [np.asarray(response, dtype=np.int64) for _, response in sequences]
        return Layout(
            ids=torch.from_numpy(np.concatenate(pieces)),
            positions=plan.positions,
            segments=segments,
            rows=torch.from_numpy(rows),
            targets=torch.from_numpy(np.concatenate(responses)),
            sequence=torch.from_numpy(sequence),
            lengths=lengths.tolist(),
            leaf=leaf,
            plan=plan,
            sequences=sequences,
            place=place,
        )

    @property
    def n_rows(self) -> int:
        return len(self.ids)

    @property
    def n_targets(self) -> int:
        return len(self.targets)


def _families(prefixes: list[Sequence[int]], share: bool) -> list[list[int]]:
    """Indices of sequences by equal prefix, in order of first appearance."""
    if not share:
        return [[index] for index in range(len(prefixes))]
    families: dict[tuple[int, ...], list[int]] = {}
    for index, prefix in enumerate(prefixes):
        families.setdefault(tuple(prefix), []).append(index)
    return list(families.values())
