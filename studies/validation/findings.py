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
    of: str = ""
    told: bool = False  # for information: no threshold

    @property
    def met(self) -> bool:
        return RELATIONS[self.relation](self.value, self.bound) and (self.high is None or self.value <= self.high)

    def row(self) -> str:
        wanted = f"in [{self.bound:g}, {self.high:g}]" if self.high is not None else f"{self.relation} {self.bound:g}"
        if self.told:
            return f"| {self.what} | {self.value:.4g} | | | {self.of} |"
        return f"| {self.what} | {self.value:.4g} | {wanted} | {'met' if self.met else '**missed**'} | {self.of} |"


@dataclass(frozen=True)
class Section:
    """What a section found: rows with thresholds, and tables of its own, in markdown."""

    findings: Sequence[Finding]
    tables: Sequence[str] = ()


def table(findings: Sequence[Finding]) -> str:
    head = ["| what | measured | wanted | | of |", "|---|---|---|---|---|"]
    return "\n".join(head + [finding.row() for finding in findings])
