"""The metrics of behaviour, in the order in which they are shown. A new one is its file here and its line in NAMES."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module

from offon.behavior.metrics.metric import Metric

NAMES = (
    "retention",
    "trainability",
    "truncated",
    "response_tokens",
)


def load(names: Iterable[str]) -> tuple[Metric, ...]:
    """What these files beside this one declare as METRIC."""
    return tuple(import_module(f"{__package__}.{name}").METRIC for name in names)


METRICS = load(NAMES)
