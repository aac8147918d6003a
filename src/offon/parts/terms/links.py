"""Links of a margin, as values a row can name. The maths is in maths.links.

Axes: P pairs, or any other unit with one margin.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from offon.lazy import Tensor
from offon.maths import links


class Link(ABC):
    @abstractmethod
    def __call__(self, margin_P: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Logistic(Link):
    """-log sigmoid(h); smoothing e: -(1 - e) log sigmoid(h) - e log sigmoid(-h)."""

    smoothing: float = 0.0

    def __call__(self, margin_P: Tensor) -> Tensor:
        return links.logistic(margin_P, self.smoothing)


@dataclass(frozen=True)
class Robust(Link):
    """The logistic link, unbiased where a share `flipped` of the labels is wrong."""

    flipped: float

    def __call__(self, margin_P: Tensor) -> Tensor:
        return links.robust(margin_P, self.flipped)


@dataclass(frozen=True)
class Square(Link):
    """(h - target)^2"""

    target: float = 1.0

    def __call__(self, margin_P: Tensor) -> Tensor:
        return links.square(margin_P, self.target)


@dataclass(frozen=True)
class Hinge(Link):
    """max(0, delta - h)"""

    delta: float = 1.0

    def __call__(self, margin_P: Tensor) -> Tensor:
        return links.hinge(margin_P, self.delta)


@dataclass(frozen=True)
class TruncatedSquare(Link):
    """max(0, 1 - h)^2"""

    def __call__(self, margin_P: Tensor) -> Tensor:
        return links.truncated_square(margin_P)


@dataclass(frozen=True)
class Exponential(Link):
    """exp(-h)"""

    def __call__(self, margin_P: Tensor) -> Tensor:
        return links.exponential(margin_P)


@dataclass(frozen=True)
class Savage(Link):
    """1 / (1 + e^h)^2"""

    def __call__(self, margin_P: Tensor) -> Tensor:
        return links.savage(margin_P)


@dataclass(frozen=True)
class Prospect(Link):
    """1 - sigmoid(h): saturates on both sides, so that what is hopeless or settled is left alone (KTO)."""

    def __call__(self, margin_P: Tensor) -> Tensor:
        return links.prospect(margin_P)
