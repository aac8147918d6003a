"""Controls of a diagnosis: does a placement help because it is the right one, and a teacher because it goes on?

    shuffled   the model after another prompt's prefix. A prefix that helps whatever it says places nobody.
    restart    a teacher after half of a wrong response to another prompt. One that starts over finishes anything: from
               a rate of .6 on (`offon.behavior.diagnosis.bottleneck.starts_over`) nothing can be told of what the model
               begins.
    leaks      prefixes that give the answer away, which were not used

Intervals are Wilson's on pooled samples. A control fails where its interval leaves no doubt; the calls that rest on it
are then withheld.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from offon.behavior.diagnosis.bottleneck import Rule
from offon.behavior.statistics.counts import Counts
from offon.behavior.statistics.intervals import Est, newcombe, wilson

PLACED = ("local", "unreachable")  # what rests on a placement and on what a teacher finishes
CLEARLY = 0.05  # success beyond plain rollouts that another prompt's prefix must surely give, to fail


@dataclass(frozen=True, kw_only=True)
class Controls:
    """Pooled counts (successes, samples), one entry each; None where not measured.

    plain: the same prompts' plain rollouts as `shuffled`. finished: the prompts that have a placebo.
    leaks: prefixes that give the answer away, of those looked at.
    """

    shuffled: Counts | None = None
    plain: Counts | None = None
    placebo: Counts | None = None
    finished: Counts | None = None
    leaks: Counts | None = None

    def entry(self, rule: Rule = Rule()) -> dict:
        """The JSON form: rates with intervals, and whether each control failed."""
        judged: dict = {}
        if self.shuffled is not None:
            excess = _difference(self.plain, self.shuffled)
            judged["shuffled"] = {"success": _rate(self.shuffled), "plain": _rate(self.plain)}
            judged["shuffled"] |= {"excess": excess._asdict(), "failed": excess.low > CLEARLY}
        if self.placebo is not None:
            placebo = _rate(self.placebo)
            judged["restart"] = {"placebo": placebo, "finished": _rate(self.finished)}
            judged["restart"] |= {"failed": placebo["low"] > 1 - rule.over_placebo / rule.alive}
        if self.leaks is not None:
            judged["leaks"] = {"share": _rate(self.leaks), "prefixes": int(self.leaks.scored[0])}
        return judged


def withheld(entry: dict) -> tuple[str, ...]:
    """The calls that failed controls take away."""
    return PLACED if any(control.get("failed") for control in entry.values()) else ()


def sentences(entry: dict) -> list[str]:
    lines = []
    if shuffled := entry.get("shuffled"):
        lines.append(f"control: after another prompt's prefix the model succeeds in {_percent(shuffled['success'])}, "
                     f"in plain rollouts of the same prompts in {_percent(shuffled['plain'])}")  # fmt: skip
        if shuffled["failed"]:
            lines.append(f"control failed: any prefix helps, so {_or(PLACED)} is not called")
    if restart := entry.get("restart"):
        lines.append(f"control: the teacher succeeds after wrong responses to other prompts in "
                     f"{_percent(restart['placebo'])}, after the model's own first steps in "
                     f"{_percent(restart['finished'])}")  # fmt: skip
        if restart["failed"]:
            lines.append(f"control failed: the teacher starts over, so {_or(PLACED)} is not called")
    if leaks := entry.get("leaks"):
        lines.append(f"control: {_percent(leaks['share'])} of {leaks['prefixes']} prefixes already hold the answer and "
                     "were not used")  # fmt: skip
    return lines


def _rate(counts: Counts) -> dict[str, float]:
    low, high = wilson(*counts)
    return Est(float(counts.rate[0]), float(low[0]), float(high[0]))._asdict()


def _difference(before: Counts, after: Counts) -> Est:
    sides = [int(number[0]) for counts in (before, after) for number in counts]
    return Est(float(after.rate[0] - before.rate[0]), *newcombe(*sides))


def _percent(rate: dict[str, float]) -> str:
    return "{:.0%} [{:.0%}, {:.0%}]".format(*(rate[name] for name in ("estimate", "low", "high")))


def _or(names: Sequence[str]) -> str:
    return " or ".join(names)
