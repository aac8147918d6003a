"""What every engine speaks: requests in, completions out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from offon.types import Sampling
from offon.types.trajectory import Tokens

if TYPE_CHECKING:
    from offon.models.model import Model

Progress = Callable[[int, int], None]  # (finished requests, all requests)


@dataclass(frozen=True)
class Request:
    """Continue `prefix` once. All randomness is a function of `key`, for example (seed, node, draw, member).

    Two requests with equal keys and prefixes are given the same completion; the members of a group differ in a key.
    """

    prefix: Tokens
    sampling: Sampling
    key: tuple[int, ...]


@dataclass(frozen=True)
class Completion:
    """The tokens drawn, a stop token included, and the log-prob (nats) of each under the distribution really sampled.

    That is softmax(logits / temperature) after top-k and top-p, renormalised; a greedy token has probability 1.
    `stop` says what ended it: one of the model's stop tokens, or max_tokens.
    """

    tokens: list[int]
    logp: list[float]
    stop: Literal["stop", "length"]


class Engine(Protocol):
    """Samples from a model. Whoever samples is handed one (`offon.engines.factory.create_engine` makes it) and names
    this type.

    max_slots   sequences it decodes together at most: what a forecast of time needs
    """

    max_slots: int

    def generate(self, requests: Sequence[Request], model: Model, progress: Progress | None = None) -> list[Completion]:
        """One completion per request, in the order of the requests."""
        ...

    def sync(self, model: Model) -> None:
        """Bring the engine's weights up to the model's, where it holds its own copy."""
        ...
