"""Whether RL has a success to start from: a question about a whole stage, not about one prompt's own reach.

    chance = 1 - prod over prompts (1 - p)^k  =~  1 - (1 - mean p)^n,    n = k rollouts of each prompt

over the prompts that share what is missing (a family, without those that are solved): what is learned where a success
was seen serves the others, and gains are reported on prompts that never showed one (arXiv:2606.15455). The mean is
known from all of their rollouts together; by Jensen's inequality it makes the chance no larger than it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from offon.behavior.statistics.checker_errors import Checker
from offon.behavior.statistics.counts import Counts
from offon.behavior.statistics.intervals import Est
from offon.behavior.statistics.posterior import rate_quantiles

SURE = 0.95  # of seeing a success, at the lower end of its interval
HALF = 0.5
QUANTILES = (np.arange(400) + 0.5) / 400


class Start(NamedTuple):
    """Of some prompts: rollouts seen and the successes among them; the rollouts of a stage, in all and of each prompt;
    the successes to expect in them, and the chance of one at least."""

    successes: int
    seen: int
    rollouts: int
    per_prompt: int
    expected: float
    chance: Est

    @property
    def sure(self) -> bool:
        return self.chance.low >= SURE

    @property
    def unlikely(self) -> bool:
        """A stage meets no success more likely than not, whatever the rate."""
        return self.chance.high < HALF

    @property
    def verb(self) -> str:
        if self.sure:
            return "has successes"
        if self.chance.low >= HALF:
            return "probably has a success"
        return "may have nothing" if self.unlikely else "may or may not have a success"

    @staticmethod
    def of(strict: Counts, k: int, *, checker: Checker | None = None) -> Start:
        """From the counts of prompts that share what is missing: Jeffreys' prior on their mean; a checker's
        errors are undone."""
        successes, seen = (int(side.sum()) for side in strict)
        rollouts = k * len(strict.scored)
        p_D = rate_quantiles(Counts.of([successes], seen), QUANTILES, checker=checker)[:, 0]
        chance_D = -np.expm1(rollouts * np.log1p(-p_D))
        low, high = np.quantile(chance_D, (0.025, 0.975))
        expected = rollouts * (successes / seen if checker is None and seen else float(p_D.mean()))
        return Start(successes, seen, rollouts, k, expected, Est(float(chance_D.mean()), float(low), float(high)))

    def entry(self) -> dict:
        return {**self._asdict(), "chance": self.chance._asdict()}

    @property
    def words(self) -> str:
        """What a stage would meet, in half a sentence."""
        stage = f"the {self.rollouts:,} rollouts of a stage ({self.per_prompt} a prompt)"
        if self.sure:
            return f"about {_count(self.expected)} successes in {stage}"
        of = f"{self.successes or 'none'} of {self.seen:,} rollouts succeeded"
        if not self.successes:
            return f"{of}, and {stage} hold one with a probability of {_up_to(self.chance.high)}"
        low, high = (f"{end:.0%}" for end in self.chance[1:])
        return f"{of}, and {stage} hold one with a probability of {low} to {high}"


def starts(
    strict: Counts, calls: Sequence[str], families: Sequence[str], k: int, *, checker: Checker | None = None
) -> dict[str, Start]:
    """Of each family with prompts that are not solved, over those."""
    open_P = (np.array(calls) != "solved") & (strict.scored > 0)
    names = np.array(families)
    return {
        str(name): Start.of(strict.at(open_P & (names == name)), k, checker=checker)
        for name in dict.fromkeys(names[open_P].tolist())
    }


def _count(expected: float) -> str:
    return f"{expected:,.0f}" if expected >= 10 else f"{expected:.1f}"


def _up_to(high: float) -> str:
    return f"{high:.0%} at most" if high < 0.995 else "anything up to 100%"
