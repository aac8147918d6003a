"""What every collector is: a function (context, groups) -> groups, joined by `|`, that declares what it requires and
provides, so that impossible chains are refused before loading."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from offon.data.render import Renderer
from offon.parts.context import Context
from offon.parts.models import ModelRef, Need
from offon.types import Group


class Collector(ABC):
    """Base of every collector: `a | b` runs a, then b on what a returned.

    requires   what has to be there: members, reward, comparisons, behavior_logp, ...
    provides   what is there afterwards
    removes    what is no longer there for every member (members that joined late are not scored yet)

    A collector whose fields hold other collectors runs them inside; `everything` and `replace` reach those too.
    """

    least: int = 1  # groups that it has to be given at once
    turns: int = 0  # responses that it samples in the same conversation, after the first
    drops_view: bool = False  # whether members are trained under another prompt than they were sampled under
    reads: str = "demonstrations"  # of a source: the form of its data, a key of `offon.data.LOADERS`

    @property
    def requires(self) -> frozenset[str]:
        return frozenset()

    @property
    def provides(self) -> frozenset[str]:
        return frozenset()

    @property
    def removes(self) -> frozenset[str]:
        return frozenset()

    @property
    def needs(self) -> tuple[Need, ...]:
        """What it has scored."""
        return ()

    @property
    def parts(self) -> tuple[Collector, ...]:
        return (self,)

    @property
    def everything(self) -> Iterator[Collector]:
        """This collector and those inside it, outermost first."""
        yield self
        for _, inner in _inside(self):
            for part in inner:
                yield from part.everything

    @property
    def samplers(self) -> tuple[ModelRef, ...]:
        """The models that generate here."""
        inner = (part for _, parts in _inside(self) for part in parts)
        return tuple(dict.fromkeys(model for part in inner for model in part.samplers))

    def replace(self, kind: type, **changes: Any) -> Collector:
        """The same collector with fields of every part of one kind replaced, however deep."""
        return self._rebuilt(lambda part: changes if isinstance(part, kind) else {})

    def given(self, **values: Any) -> Collector:
        """The same collector with what the node has (its sampling, its tokenizer) written into every part that has a
        field of that name."""

        def fields_of(part: Collector) -> dict[str, Any]:
            return {field.name: values[field.name] for field in dataclasses.fields(part) if field.name in values}

        return self._rebuilt(fields_of)

    def exchange(self, kind: Any, change: Callable[[Any], Collector]) -> Collector:
        """The same collector with every part of a kind (or of one of several) changed for another, however deep."""
        return change(self) if isinstance(self, kind) else self._with_inside(lambda part: part.exchange(kind, change))

    def _rebuilt(self, changes: Callable[[Collector], Mapping[str, Any]]) -> Collector:
        rebuilt = self._with_inside(lambda part: part._rebuilt(changes))
        return dataclasses.replace(rebuilt, **changed) if (changed := changes(self)) else rebuilt  # type: ignore[type-var]

    def _with_inside(self, change: Callable[[Collector], Collector]) -> Collector:
        inner = {name: tuple(map(change, held)) for name, held in _inside(self)}
        inner = {name: new if isinstance(getattr(self, name), tuple) else new[0] for name, new in inner.items()}
        return dataclasses.replace(self, **inner) if inner else self  # type: ignore[type-var]

    def check(self, prompts: Sequence[Group], render: Renderer) -> None:  # noqa: B027  most have nothing to refuse
        """Refuse prompts that this collector could do nothing with, or that it could not write with this tokenizer.
        Called once, before a stage starts."""

    def __or__(self, other: Collector) -> Pipe:
        return Pipe(self.parts + other.parts)

    @abstractmethod
    def __call__(self, context: Context, groups: list[Group]) -> list[Group]:
        """Groups with more in them, or fewer."""

    def __str__(self) -> str:
        return type(self).__name__.lower()


def _inside(collector: Collector) -> list[tuple[str, tuple[Collector, ...]]]:
    """(field, the collectors it holds) of every field that holds any."""
    fields = dataclasses.fields(collector) if dataclasses.is_dataclass(collector) else ()
    held = [(field.name, getattr(collector, field.name)) for field in fields]
    held = [(name, value if isinstance(value, tuple) else (value,)) for name, value in held]
    return [(name, value) for name, value in held if value and all(isinstance(part, Collector) for part in value)]


@dataclass(frozen=True)
class Pipe(Collector):
    """Collectors in order."""

    chain: tuple[Collector, ...]

    @property
    def parts(self) -> tuple[Collector, ...]:
        return self.chain

    @property
    def requires(self) -> frozenset[str]:
        missing: frozenset[str] = frozenset()
        have: frozenset[str] = frozenset()
        for part in self.chain:
            missing |= part.requires - have
            have = (have - part.removes) | part.provides
        return missing

    @property
    def provides(self) -> frozenset[str]:
        have: frozenset[str] = frozenset()
        for part in self.chain:
            have = (have - part.removes) | part.provides
        return have

    @property
    def removes(self) -> frozenset[str]:
        return frozenset().union(*(part.removes for part in self.chain)) - self.provides

    def __call__(self, context: Context, groups: list[Group]) -> list[Group]:
        for part in self.chain:
            groups = part(context, groups)
        return groups

    def __str__(self) -> str:
        return " | ".join(map(str, self.parts))
