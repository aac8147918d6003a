"""What became of the rows of a source."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from offon.types import Group


@dataclass
class DataReport:
    """What became of the rows of a source. `str()` is the sentence to print; the counts are for the run's report."""

    source: str
    columns: str  # what was detected, such as "prompt + completion"
    rows: int = 0
    trajectories: int = 0
    split_rows: int = 0  # rows whose template rewrites earlier turns: one trajectory per assistant turn
    added_eos: int = 0  # trajectories whose template or text had no end token
    dropped: Counter[str] = field(default_factory=Counter)
    cut: int = 0
    tokens_cut: int = 0
    lost: Counter[str] = field(default_factory=Counter)  # rows by what they say and the template leaves out
    tokens: Counter[str] = field(default_factory=Counter)  # prompt, supervised, environment

    @property
    def supervised_share(self) -> float:
        return self.tokens["supervised"] / max(1, self.tokens.total())

    def __str__(self) -> str:
        parts = [f"{self.source}: {self.rows} rows ({self.columns}), {self.trajectories} trajectories"]
        parts += [f"{count} dropped: {reason}" for reason, count in sorted(self.dropped.items())]
        parts += [f"{count} without their {kind}" for kind, count in sorted(self.lost.items())]
        if self.cut:
            parts.append(f"{self.cut} cut to max_length, losing {self.tokens_cut} tokens")
        if self.split_rows:
            parts.append(f"{self.split_rows} rows split by turn, because the chat template rewrites earlier turns")
        if self.added_eos:
            parts.append(f"EOS added to {self.added_eos}")
        parts.append(f"{self.supervised_share:.1%} of {self.tokens.total()} tokens supervised")
        return "; ".join(parts)


class Loaded(list[Group]):
    """Groups, with the report of how they came from their rows."""

    def __init__(self, groups: Iterable[Group], report: DataReport):
        super().__init__(groups)
        self.report = report
