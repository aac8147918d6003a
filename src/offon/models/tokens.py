"""The ids that stand for a token. Embeddings are often padded beyond the tokenizer's last id, to a round number.

Axes: M targets, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

RULED_OUT = -1e9  # a probability of 0 in any float, and finite: 0 times its log is 0 in sums over the vocabulary


@dataclass(frozen=True)
class Spoken:
    """size: one more than the last id that stands for a token; None: every id may. holes: ids below it without one."""

    size: int | None = None
    holes: tuple[int, ...] = ()

    @staticmethod
    def of(tokenizer: Any, vocabulary: int) -> Spoken:
        """Of a model with `vocabulary` logits. Without a tokenizer nothing is known."""
        if tokenizer is None:
            return Spoken()
        known = set(tokenizer.get_vocab().values())
        known |= {index for index in range(vocabulary) if index not in known and _says(tokenizer, index)}
        size = max((index + 1 for index in known if index < vocabulary), default=vocabulary)
        return Spoken(size, tuple(index for index in range(size) if index not in known))

    def only(self, logits: Tensor) -> Tensor:
        """Logits [M, V] of these ids alone, from those of every row of the head."""
        logits = logits if self.size is None else logits[:, : self.size]
        if not self.holes:
            return logits
        return logits.index_fill(1, logits.new_tensor(self.holes).long(), RULED_OUT)


def _says(tokenizer: Any, index: int) -> bool:
    """Whether an id that the vocabulary does not list is a token all the same: some tokenizers list only a part."""
    try:
        return bool(tokenizer.decode([index])) and index != tokenizer.unk_token_id
    except (IndexError, KeyError, OverflowError, TypeError, ValueError):
        return False
