"""What a row that makes data or weights may use, and what it would do with it, without doing it."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from offon.lazy import Tensor
from offon.parts.models import SELF, ModelRef, Need
from offon.parts.stage import require
from offon.types import Group

if TYPE_CHECKING:
    from offon.collect import Collector

Weights = dict[str, Tensor]  # parameter name -> float32 values


class MakeContext(ABC):
    """The one argument of every row of kind make; what else it takes is named as a stage's inputs and arguments are.

        @method(kind="make", ...)
        def best_of_n(toolbox, task, *, n: int = 16):
            toolbox.write(toolbox.collect(rollouts(task, n) | verify(task) | keep_best(1)))

    SELF is the model that the node's `init` names, and no model changes. Such a row is called twice: when a recipe is
    checked with a `Plan`, which has no prompts, no data and no weights (lists and mappings are empty), and to run.
    """

    seed: int
    directory: Path  # write what the node makes in here

    @abstractmethod
    def collect(self, collector: Collector, groups: list[Group] | None = None) -> list[Group]:
        """What a collector makes of these groups, else of the task's training prompts. A part of them at a time, each
        kept: a node that is stopped goes on where it was. A collector must therefore look at one group at a time."""

    @abstractmethod
    def write(self, groups: list[Group]) -> None:
        """Make the groups' members the node's data: a pair for each comparison, else a demonstration for each member.

        All that was collected has to be among them, what is not wanted `dropped` with a reason: the ledger says of
        everything generated what became of it.
        """

    @abstractmethod
    def write_rows(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Make these rows the node's data, for forms that `write` does not know."""

    @abstractmethod
    def record(self, groups: list[Group], fate: str) -> None:
        """Put groups on the ledger; `fate` is what became of their members ("kept", "scored")."""

    @abstractmethod
    def weights(self, model: ModelRef) -> Weights:
        """The weights of a model in float32, adapters merged: W + alpha / r B A."""

    @abstractmethod
    def save(self, weights: Weights, like: ModelRef, *, measure: bool = True) -> None:
        """Make a model with these weights, and the configuration and tokenizer of another, what the node makes.

        measure: probe it as a model that a stage made is; False for weights that are no policy (an importance)."""

    @abstractmethod
    def squared_gradients(self, groups: list[Group]) -> Weights:
        """The mean over the groups' members of the square of the gradient of their log-prob, under SELF."""

    @abstractmethod
    def model(self, model: ModelRef) -> Any:
        """A loaded `offon.models.model.Model`. A plan ends here."""


class Enough(Exception):  # noqa: N818  no error: the plan of a row that goes on with a loaded model
    """The rest of a row needs a model."""


@dataclass
class Plan(MakeContext):
    """What a row would collect, with which models, without doing it."""

    seed: int = 0
    directory: Path = Path()
    recommends: Mapping[str, Any] = field(default_factory=dict)
    collected: list[Collector] = field(default_factory=list)
    asked: list[Collector] = field(default_factory=list)  # of these, what starts from the task's prompts
    read: list[ModelRef] = field(default_factory=list)  # models whose weights it reads
    reads: str = "demonstrations"
    makes: str | None = None  # data, policy (a model to be measured) or weights; None if it ends before that
    updates: None = None

    @staticmethod
    def of(row: Callable[..., None], recommends: Mapping[str, Any], reads: str, **given: Any) -> Plan:
        plan = Plan(recommends=recommends, reads=reads)
        with contextlib.suppress(Enough):
            row(plan, **given)
        return plan

    @property
    def samplers(self) -> tuple[ModelRef, ...]:
        return tuple(dict.fromkeys(model for collector in self.collected for model in collector.samplers))

    @property
    def needs(self) -> tuple[Need, ...]:
        parts = (part for collector in self.collected for part in collector.parts)
        return tuple(dict.fromkeys(need for part in parts for need in part.needs))

    @property
    def models(self) -> tuple[ModelRef, ...]:
        return tuple(dict.fromkeys([*self.samplers, *(need.model for need in self.needs), *self.read]))

    @property
    def uses_init(self) -> bool:
        """Prompts and rows are read with the tokenizer of the init, also where its weights are not."""
        return bool(self.collected) or SELF in self.models

    def __str__(self) -> str:
        steps = [str(collector) for collector in self.collected]
        return "; ".join([*steps, *([f"weights of {', '.join(map(str, self.read))}"] if self.read else [])])

    def validate(self) -> Plan:
        return self

    def collect(self, collector: Collector, groups: list[Group] | None = None) -> list[Group]:
        known = {name for earlier in self.collected for name in earlier.provides}
        require(collector.requires, frozenset(known if groups is None else {*known, "members"}), str(collector))
        self.collected.append(collector)
        self.asked += [collector] if groups is None else []
        return []

    def write(self, groups: list[Group]) -> None:
        self.makes = "data"

    def write_rows(self, rows: Iterable[Mapping[str, Any]]) -> None:
        self.makes = "data"

    def record(self, groups: list[Group], fate: str) -> None: ...

    def weights(self, model: ModelRef) -> Weights:
        self.read.append(model)
        return {}

    def save(self, weights: Weights, like: ModelRef, *, measure: bool = True) -> None:
        self.makes = "policy" if measure else "weights"

    def squared_gradients(self, groups: list[Group]) -> Weights:
        self.read.append(SELF)
        return {}

    def model(self, model: ModelRef) -> Any:
        self.read.append(model)
        raise Enough
