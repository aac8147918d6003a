"""What every collector is: a function (context, groups) -> groups, joined by `|`, that declares what it requires and
provides, so that impossible chains are refused before loading."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from dataclasses import dataclass

from offon.collect.context import Context
from offon.parts.models import ModelRef
from offon.types import Group


class Collector(ABC):
    """Base of every collector: `a | b` runs a, then b on what a returned."""

    requires: frozenset[str] = frozenset()
    provides: frozenset[str] = frozenset()
    samplers: tuple[ModelRef, ...] = ()
    reads: str = "demonstrations"  # of a source: the form of its data, a key of `offon.data.LOADERS`

    @property
    def parts(self) -> tuple[Collector, ...]:
        return (self,)

    def __or__(self, other: Collector) -> Pipe:
        return Pipe(self.parts + other.parts)

    @abstractmethod
    def __call__(self, context: Context, groups: list[Group]) -> list[Group]:
        """Groups with more in them, or fewer."""

    def __str__(self) -> str:
        return type(self).__name__.lower()


@dataclass(frozen=True)
class Pipe(Collector):
    """Collectors in order."""

    chain: tuple[Collector, ...]

    @property
    def parts(self) -> tuple[Collector, ...]:
        return self.chain

    @property
    def samplers(self) -> tuple[ModelRef, ...]:
        return tuple(dict.fromkeys(model for part in self.parts for model in part.samplers))

    def __call__(self, context: Context, groups: list[Group]) -> list[Group]:
        for part in self.chain:
            groups = part(context, groups)
        return groups

    def replace(self, kind: type, **changes) -> Pipe:
        """The same chain with fields of every part of one kind replaced."""
        return Pipe(tuple(dataclasses.replace(p, **changes) if isinstance(p, kind) else p for p in self.parts))

    def given(self, **values) -> Pipe:
        """The same chain with what the node has (its sampling, its tokenizer) written into every part that has a field
        of that name."""

        def written(part: Collector) -> Collector:
            own = {field.name for field in dataclasses.fields(part)} & set(values)
            return dataclasses.replace(part, **{name: values[name] for name in own}) if own else part

        return Pipe(tuple(written(part) for part in self.parts))

    def __str__(self) -> str:
        return " | ".join(map(str, self.parts))
