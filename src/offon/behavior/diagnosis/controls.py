"""Controls of a diagnosis: does a placement help because it is the right one, and a teacher because it goes on?

    shuffled   the model after another prompt's prefix. A prefix that helps whatever it says places nobody.
    restart    a teacher after half of a wrong response to another prompt. One that starts over finishes anything: from
               a rate of .6 on (`offon.behavior.diagnosis.bottleneck.starts_over`) nothing can be told of what the model
               begins.
    leaks      prefixes that give the answer away, which were not used
    others     responses to other prompts, given to the checker. What it accepts of those is its error, or luck:
               success that is no more frequent is no sign of a skill. It has to stay well below eps_k, from which
               success counts as within reach

Intervals are Wilson's on pooled samples. A control fails where its interval leaves no doubt; the calls that rest on it
are then withheld: of `others`, those that rest on rare successes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from offon.behavior.change.support import support_threshold
from offon.behavior.diagnosis.bottleneck import Posterior, Rule
from offon.behavior.statistics.counts import Counts
from offon.behavior.statistics.intervals import Est, newcombe, wilson

PLACED = ("local", "unreachable")  # what rests on a placement and on what a teacher finishes
WELL_BELOW = 0.5  # of eps_k: as much of it may be the checker's errors
CLEARLY = 0.05  # success beyond plain rollouts that another prompt's prefix must surely give, to fail


@dataclass(frozen=True, kw_only=True)
class Controls:
    """Pooled counts (successes, samples), one entry each; None where not measured.

    plain: the same prompts' plain rollouts as `shuffled`. finished: the prompts that have a placebo.
    leaks: prefixes that give the answer away, of those looked at. others: responses to other prompts that the checker
    accepts, and others_content whose content it does.
    """

    shuffled: Counts | None = None
    plain: Counts | None = None
    placebo: Counts | None = None
    finished: Counts | None = None
    leaks: Counts | None = None
    others: Counts | None = None
    others_content: Counts | None = None

    def entry(self, k: int, rule: Rule = Rule()) -> dict:
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
        if self.others is not None:
            accepted, limit = _rate(self.others), WELL_BELOW * support_threshold(k, zeta=rule.zeta)
            judged["others"] = {"accepted": accepted, "responses": int(self.others.scored[0]), "limit": limit}
            judged["others"] |= {"failed": accepted["low"] > 0 and accepted["high"] >= limit}
            if self.others_content is not None:
                judged["others"]["content"] = _rate(self.others_content)
        return judged


def withheld(entry: dict) -> tuple[str, ...]:
    """The calls that failed controls take away wherever they are made."""
    return PLACED if any(entry.get(name, {}).get("failed") for name in ("shuffled", "restart")) else ()


def rests_on_luck(entry: dict, posteriors: Posterior, k: int, rule: Rule = Rule()) -> dict[str, np.ndarray]:
    """call -> [P] where it rests on successes that the checker may accept of anything: what is left when the accepted
    share of other prompts' responses, at the upper end of its interval, is taken off is not surely enough."""
    if not (others := entry.get("others", {})).get("failed"):
        return {}
    taken_off = {"ranking": (others["accepted"]["high"], support_threshold(k, zeta=rule.zeta))}
    if "content" in others:
        taken_off |= {"format": (others["content"]["high"], rule.format_content)}
    p_DP = posteriors.rates["content"]
    return {
        call: ((p_DP - false) / (1 - false) < least).mean(axis=0) > 1 - rule.confidence
        for call, (false, least) in taken_off.items()
    }


def doubt(entry: dict, k: int, withheld_calls: int) -> str:
    """Why the checker cannot be believed in what is rare; empty where it can."""
    if not (others := entry.get("others", {})).get("failed"):
        return ""
    calls = (
        f"{withheld_calls} call{'s' * (withheld_calls > 1)} that would rest on rare successes "
        if withheld_calls
        else ""
    )
    then = f"{calls}{'is' if withheld_calls == 1 else 'are'} withheld" if calls else "rare successes tell nothing"
    return (
        f"mend the checker, or label outputs (--labels): it accepts {_percent(others['accepted'], 1)} of responses to "
        f"other prompts, too close to the {2 * others['limit']:.1%} from which success counts as within reach of {k} "
        f"rollouts; {then}"
    )


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
    if others := entry.get("others"):
        few = "" if others["failed"] or others["accepted"]["high"] < others["limit"] else ", too few to tell"
        lines.append(f"control: the checker accepts {_percent(others['accepted'], 1)} of {others['responses']:,} "
                     f"responses to other prompts; within reach begins at {2 * others['limit']:.1%}{few}")  # fmt: skip
    return lines


def _rate(counts: Counts) -> dict[str, float]:
    low, high = wilson(*counts)
    return Est(float(counts.rate[0]), float(low[0]), float(high[0]))._asdict()


def _difference(before: Counts, after: Counts) -> Est:
    sides = [int(number[0]) for counts in (before, after) for number in counts]
    return Est(float(after.rate[0] - before.rate[0]), *newcombe(*sides))


def _percent(rate: dict[str, float], digits: int = 0) -> str:
    estimate, low, high = (f"{rate[name]:.{digits}%}" for name in ("estimate", "low", "high"))
    return f"{estimate} [{low}, {high}]"


def _or(names: Sequence[str]) -> str:
    return " or ".join(names)
