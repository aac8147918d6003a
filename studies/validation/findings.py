"""A finding: one measured number beside its threshold."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass

RELATIONS = {"<=": operator.le, ">=": operator.ge, "=": operator.eq}


@dataclass(frozen=True, kw_only=True)
class Finding:
    """relation and bound: what it should be; `of` says how much was looked at; shown: its text where a number is not
    enough."""

    what: str
    value: float
    relation: str = "="
    bound: float = 0.0
    high: float | None = None  # with relation ">=": the upper end of a band
    upto: float | None = None  # where value is the lowest of several: the highest
    of: str = ""
    told: bool = False  # for information: no threshold
    cells: Sequence[dict] = ()  # what the row sums up, kept in the file beside it

    @property
    def met(self) -> bool:
        highest = self.value if self.upto is None else self.upto
        return RELATIONS[self.relation](self.value, self.bound) and (self.high is None or highest <= self.high)

    def row(self) -> str:
        wanted = f"in [{self.bound:g}, {self.high:g}]" if self.high is not None else f"{self.relation} {self.bound:g}"
        measured = f"{self.value:.4g}" if self.upto is None else f"{self.value:.3f} to {self.upto:.3f}"
        if self.told:
            return f"| {self.what} | {measured} | | | {self.of} |"
        return f"| {self.what} | {measured} | {wanted} | {'met' if self.met else '**missed**'} | {self.of} |"


@dataclass(frozen=True)
class Section:
    """What a section found: rows with thresholds, and tables of its own, in markdown."""

    findings: Sequence[Finding]
    tables: Sequence[str] = ()


def table(findings: Sequence[Finding]) -> str:
    head = ["| what | measured | wanted | | of |", "|---|---|---|---|---|"]
    return "\n".join(head + [finding.row() for finding in findings])
