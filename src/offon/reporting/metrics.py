"""How metrics of behaviour read, from their declarations alone: a cell of a table, a line of text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from offon.behavior.metrics import registry
from offon.behavior.metrics.metric import Estimates, Metric
from offon.reporting import words

SIDES = ("before", "after")
WITHOUT_A_SIGN = ("nats", "points")  # units that `words.written` leaves to the reader


class Cell(NamedTuple):
    text: str
    range: str


class Column(NamedTuple):
    head: str
    title: str
    meaning: str
    cells: list[Cell | None]  # one a row; None where it was not measured


def values(numbers: Mapping[str, Any]) -> dict[str, Any]:
    """Every metric of a task's entry of handoff.json, or of a family's; None where the entry does not have it."""
    return {metric.key: numbers.get(metric.key) for metric in registry.METRICS}


def columns(rows: Sequence[Mapping[str, Any]]) -> list[Column]:
    """A column for each metric that some row has."""
    drawn = ((metric, [cell(metric, row.get(metric.key)) for row in rows]) for metric in registry.METRICS)
    return [Column(_head(metric), metric.title, metric.meaning, cells) for metric, cells in drawn if any(cells)]


def lines(numbers: Mapping[str, Any]) -> list[str]:
    """truncated 12.0% → 3.1%, −8.9 points (−10.2 to −7.6): of the metrics that deserve it here."""
    read = ((metric, _parts(metric, numbers.get(metric.key))) for metric in registry.METRICS)
    return [_line(metric, parts) for metric, parts in read if parts and metric.line(parts)]


def cell(metric: Metric, value: Any) -> Cell | None:
    parts = _parts(metric, value)
    if not parts:
        return None
    if "" in parts:
        return Cell(words.written(parts[""], metric.unit), words.interval(parts[""], metric.unit))
    text = " → ".join(words.written(parts.get(side), metric.unit) for side in SIDES)
    if change := parts.get("change"):
        return Cell(text, _change(change, metric.unit))
    return Cell(text, " → ".join(words.interval(parts.get(side), metric.unit) or "–" for side in SIDES))


def _line(metric: Metric, parts: Estimates) -> str:
    unit = f" {metric.unit}" if metric.unit in WITHOUT_A_SIGN else ""
    title = metric.title if metric.title[1:2].isupper() else metric.title[:1].lower() + metric.title[1:]
    if "" in parts:
        shown = f"{words.written(parts[''], metric.unit)}{unit} ({words.interval(parts[''], metric.unit)})"
    else:
        shown = " → ".join(words.written(parts.get(side), metric.unit) for side in SIDES) + unit
        shown += f", {_change(parts['change'], metric.unit)}" if parts.get("change") else ""
    return f"{title} {shown}"


def _change(est: words.Est, unit: str) -> str:
    """−8.9 points (−10.2 to −7.6): a share changes by points, everything else in its own unit."""
    if all(value == 0 for value in est.values()):
        return "unchanged"
    points = unit in ("share", "points")
    low, high = (_signed(est[end], unit) if est[end] is not None else "no bound" for end in ("low", "high"))
    return f"{_signed(est['estimate'], unit)}{' points' if points else ''} ({low} to {high})"


def _signed(value: float, unit: str) -> str:
    if unit in ("share", "points"):
        return words.points(value)
    text = words.written({"estimate": value}, unit)
    return f"+{text}" if value > 0 and any(digit in text for digit in "123456789") else text


def _head(metric: Metric) -> str:
    named = metric.unit not in WITHOUT_A_SIGN or metric.unit in metric.title
    return metric.title if named else f"{metric.title}, {metric.unit}"


def _parts(metric: Metric, value: Any) -> dict[str, words.Est]:
    """The parts that were measured."""
    return {part: est for part, est in (metric.parts(value) if value else {}).items() if est}
