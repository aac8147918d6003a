"""Several models behind the face of one: mixed at every token, or one for each item.

Both speak the words of a Model that scores: hidden states in, logits out. Hidden states of different models travel side
by side in one tensor, so that nothing else has to know how many there are.

Legend: M targets, D widths of hidden states, V vocabulary.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import log
from typing import Any, Literal

import torch
from torch import Tensor, nn

from offon.errors import DataError
from offon.models.chunked import over_vocabulary
from offon.models.model import Model
from offon.models.packed.layout import Layout
from offon.types import Item


class Together(ABC):
    """What both have in common. Models of one family pad the same vocabulary to different sizes; ids that only some of
    them have stand for no token and are left out."""

    @property
    @abstractmethod
    def parts(self) -> Sequence[Model]: ...

    @abstractmethod
    def next_logits(self, hidden: Tensor) -> Tensor:
        """Logits [M, V] of what `hidden` returned."""

    @property
    def vocabulary(self) -> int:
        return min(part.vocabulary for part in self.parts)

    def over_vocabulary(
        self, hidden: Tensor, reduce: Callable, *aligned: Tensor, temperature: Tensor | None = None, **options
    ) -> Any:
        return over_vocabulary(
            self.next_logits, self.vocabulary, hidden, reduce, *aligned, temperature=temperature, **options
        )


@dataclass(frozen=True, eq=False)
class Mixture(Together):
    """p = sum_k w_k p_k, or p proportional to prod_k p_k^w_k (space "logit"), token by token. See parts.models.Mix."""

    models: tuple[Model, ...]
    weights: tuple[float, ...]
    space: Literal["probability", "logit"]

    @property
    def parts(self) -> tuple[Model, ...]:
        return self.models

    @property
    def hf(self) -> nn.ModuleList:
        return nn.ModuleList(part.hf for part in self.models)

    @property
    def tokenizer(self):
        return self.models[0].tokenizer

    @property
    def device(self) -> torch.device:
        return self.models[0].device

    @property
    def stop_ids(self) -> tuple[int, ...]:
        return tuple(sorted({stop for part in self.models for stop in part.stop_ids}))

    @property
    def positions(self) -> int | None:
        return min((part.positions for part in self.models if part.positions), default=None)

    @property
    def turns(self) -> tuple[int, ...]:
        return tuple(sorted({turn for part in self.models for turn in part.turns}))

    def fingerprint(self) -> str:
        return " ".join(part.fingerprint() for part in self.models)

    def hidden(self, layout: Layout) -> Tensor:
        return torch.cat([part.hidden(layout) for part in self.models], dim=-1)

    def next_logits(self, hidden: Tensor) -> Tensor:
        own = hidden.split([part.width for part in self.models], dim=-1)
        logp = [
            torch.log_softmax(part.next_logits(states)[:, : self.vocabulary], dim=-1)
            for part, states in zip(self.models, own, strict=True)
        ]
        pairs = [(weight, part) for weight, part in zip(self.weights, logp, strict=True) if weight > 0]
        if self.space == "logit":
            return sum(weight * part for weight, part in pairs)
        return torch.logsumexp(torch.stack([part + log(weight) for weight, part in pairs]), dim=0)


@dataclass(frozen=True, eq=False)
class Routed(Together):
    """One model for each item, by the value of a column of the item (or its family). See parts.models.Route.

    Rows of hidden states begin with the number of the model they belong to.
    """

    column: str
    cases: Mapping[str, Model]

    @property
    def parts(self) -> tuple[Model, ...]:
        return tuple(self.cases.values())

    def number(self, item: Item) -> int:
        value = item.family if self.column == "family" else item.columns.get(self.column)
        if value not in self.cases:
            raise DataError(
                f"no model for items whose {self.column} is {value!r}",
                where=f"item {item.id}",
                why=f"there are models for {', '.join(map(repr, self.cases))}",
            )
        return list(self.cases).index(value)

    def side_by_side(self, number_M: Tensor, states: Mapping[int, Tensor]) -> Tensor:
        """[M, 1 + D] from the hidden states of each model at its own rows."""
        some = next(iter(states.values()))
        width = max(hidden.shape[-1] for hidden in states.values())
        rows = some.new_zeros(len(number_M), 1 + width)
        rows[:, 0] = number_M.to(rows)
        for number, hidden in states.items():
            rows[(number_M == number).to(rows.device), 1 : 1 + hidden.shape[-1]] = hidden
        return rows

    def next_logits(self, hidden: Tensor) -> Tensor:
        logits = hidden.new_zeros(len(hidden), self.vocabulary, dtype=torch.promote_types(hidden.dtype, torch.float32))
        for number, part in enumerate(self.parts):
            mine = hidden[:, 0] == number
            if mine.any():
                logits[mine] = part.next_logits(hidden[mine, 1 : 1 + part.width])[:, : self.vocabulary]
        return logits
