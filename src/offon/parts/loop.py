"""Methods that are several nodes: rows of kind loop return one of these, and a recipe has its nodes in their place."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from offon.errors import ConfigError

Keys = dict[str, Any]  # of a node, as a recipe writes them


@dataclass(frozen=True)
class Ref:
    """Something of the loop, named where the node's keys want a source. `base`: what the loop starts from, each time
    the same model; `last`: the model trained last, at first the base; any other name: what that role made last."""

    role: str

    def __str__(self) -> str:
        return self.role


BASE, LAST = Ref("base"), Ref("last")


@dataclass(frozen=True)
class Loop:
    """Nodes by role, in order, and how often. A value may be a schedule over the iteration, and a node a loop itself.

        Loop({"samples": {"method": "sampled", "init": LAST}, "model": {"method": "sft", "init": BASE,
              "data": Ref("samples"), "steps": Growth(40, 1.2)}}, times=3)

    becomes, for a node named n, n-1-samples, n-1-model, n-2-samples, ..., and the last one is n itself.
    """

    nodes: Mapping[str, Keys | Loop]
    times: int = 1

    def validate(self) -> Loop:
        if not self.nodes or self.times < 1:
            raise ConfigError(f"a loop of {len(self.nodes)} nodes, {self.times} times, does nothing")
        return self

    def expanded(self, name: str, base: str, trains: Callable[[Keys], bool]) -> dict[str, Keys]:
        """The nodes by name. base: the source the loop starts from; trains: whether a node makes the next `last`."""
        known = {"base": base, "last": base}
        *before, (_, last) = self._walk("", known, name, trains)
        return {**{f"{name}-{path}": keys for path, keys in before}, name: last}

    def _walk(
        self, prefix: str, known: dict[str, str], name: str, trains: Callable[[Keys], bool]
    ) -> Iterator[tuple[str, Keys]]:
        for index in range(self.times):
            for role, node in self.nodes.items():
                path = f"{prefix}{index + 1}-{role}" if self.times > 1 or prefix else role
                if isinstance(node, Loop):
                    yield from node._walk(f"{path}-", known, name, trains)
                    continue
                keys = {key: self._value(value, index, known) for key, value in node.items()}
                yield path, keys
                known[role] = f"${name}-{path}"
                if trains(keys):
                    known["last"] = known[role]

    def _value(self, value: Any, index: int, known: Mapping[str, str]) -> Any:
        if isinstance(value, Ref):
            return known[value.role]
        return value(index, self.times) if callable(value) else value

    def __str__(self) -> str:
        return f"{self.times} x ({' -> '.join(f'{role}: {_in_words(node)}' for role, node in self.nodes.items())})"


def _in_words(node: Keys | Loop) -> str:
    if isinstance(node, Loop):
        return str(node)
    keys = ", ".join(f"{key}={value}" for key, value in node.items() if key != "method")
    return f"{node['method']}({keys})"
