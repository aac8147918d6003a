"""Where the rollouts of a diagnosis go: to the measurement that tells most, until every call is sure or paid for.

A few rollouts of every prompt; another condition (a scaffold, an earlier checkpoint) where the model could be fragile;
where success is probably out of reach, rollouts up to a look that can say so, then a teacher's prefixes and
completions; and prompt by prompt whichever measurement promises the largest fall of the call's entropy.

That success is out of reach is judged at a few looks, not after every rollout: a prompt at the threshold shows no
success for a while by luck, and whoever looks all the time sees it. The first look is where no success certifies it
(1.23 k rollouts), the next are as far apart. At k = 64 a prompt at p = .05 = 1.1 eps is so called in about 4%; in 30%
if every eighth rollout from the 32nd on is a look and .9 is sure enough.

Axes: P prompts.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from offon.behavior.change.support import samples_to_certify_out
from offon.behavior.diagnosis.bottleneck import (
    BELOW,
    Measured,
    Posterior,
    Rule,
    below_support,
    decided,
    open_to_fragile,
    posterior,
)
from offon.behavior.diagnosis.information_gain import SAMPLES as MORE
from offon.behavior.diagnosis.information_gain import entropy_drop
from offon.behavior.statistics.checker_errors import Checker

FIRST = 32  # rollouts of every prompt
WORTH = 1e-3  # nats a measurement must promise to be made
Progress = Callable[[dict[str, Any]], None]


class Spender(Protocol):
    """What `spend` needs: how much was measured, and how to measure more."""

    spent: np.ndarray  # [P] rollouts
    asked: np.ndarray  # [P] whether a right answer was looked for

    @property
    def measured(self) -> Measured: ...

    @property
    def untried(self) -> Mapping[str, np.ndarray]:
        """[P] for each other condition, in the order to try them: where there is one that was not tried."""
        ...

    @property
    def placeable(self) -> np.ndarray:
        """[P] where there is a right answer to place the model on, or may be."""
        ...

    def candidates(self, prompt: int) -> Mapping[str, tuple[str, ...]]:
        """What could be measured next on a prompt, and the rates of the posterior that its outcomes inform."""
        ...

    def measure(self, name: str, prompts: np.ndarray, samples: int) -> None: ...

    def ask_teacher(self, prompts: np.ndarray) -> None: ...


def allocate(sampler: Spender, budget: int, k: int, rule: Rule = Rule(), *, checker: Checker | None = None) -> None:
    """Measure until every prompt is called or has spent its budget."""
    first, look = min(FIRST, budget), max(FIRST, samples_to_certify_out(k))
    for spent in np.unique(sampler.spent[sampler.spent < first]):  # a pilot may have begun
        sampler.measure("rollouts", np.flatnonzero(sampler.spent == spent), int(first - spent))
    while True:
        now = Evidence.of(sampler, k, rule, look, checker)
        prompts = np.flatnonzero(~now.sure & (sampler.spent + MORE <= budget))
        if not len(prompts):
            return
        if (some := prompts[now.asks[prompts]]).size:
            sampler.ask_teacher(some)
            continue
        chosen = now.due(prompts, budget - sampler.spent) or _most_telling(
            sampler, now, prompts, budget - sampler.spent
        )
        if not chosen:
            return
        for (name, samples), indices in chosen.items():
            sampler.measure(name, np.array(indices), samples)


@dataclass(frozen=True)
class Evidence:
    """What is known of each prompt, and what has to be measured before anything is weighed against it. All [P].

    below      success is more likely out of reach than not
    certain    surely out of reach, and at a look: no further rollouts are needed for that
    looked     reach was judged once
    to_look    rollouts until it is judged next
    untried    other conditions that could still make a prompt fragile, by name
    asks       may be out of reach, and a teacher or a reference was not asked for an answer yet
    sure       nothing more to measure
    """

    posteriors: Posterior
    below: np.ndarray
    certain: np.ndarray
    looked: np.ndarray
    to_look: np.ndarray
    untried: Mapping[str, np.ndarray]
    asks: np.ndarray
    sure: np.ndarray

    @staticmethod
    def of(sampler: Spender, k: int, rule: Rule, look: int, checker: Checker | None) -> Evidence:
        measured = sampler.measured
        posteriors = posterior(measured, k, rule, checker=checker)
        share, scored = posteriors.probabilities[:, BELOW].sum(axis=1), measured.strict.scored
        below = share > 0.5
        certain = below_support(posteriors, rule) & (scored >= look) & (scored % look < MORE)
        fragile = open_to_fragile(posteriors, rule)
        untried = {name: there & fragile for name, there in sampler.untried.items()}
        called = np.where(below, certain & (decided(posteriors, rule) | ~sampler.placeable), decided(posteriors, rule))
        asks = (share > 1 - rule.confidence) & ((scored >= look) | ~below) & sampler.placeable & ~sampler.asked
        hoped = _any(untried)
        return Evidence(
            posteriors=posteriors, below=below, certain=certain, looked=scored >= look, to_look=look - scored % look,
            untried=untried, asks=asks & ~hoped, sure=called & ~hoped,
        )  # fmt: skip

    def due(self, prompts: np.ndarray, left: np.ndarray) -> dict[tuple[str, int], list[int]]:
        """Another condition once, the first that could matter; then rollouts up to the first look."""
        chosen = defaultdict(list)
        for prompt in prompts:
            name = next((name for name, there in self.untried.items() if there[prompt]), None)
            if name is not None:
                chosen[name, MORE].append(prompt)
            elif self.below[prompt] and not self.looked[prompt]:
                chosen["rollouts", self.rollouts(prompt, left)].append(prompt)
        return chosen

    def rollouts(self, prompt: int, left: np.ndarray) -> int:
        """How many to draw at once."""
        return int(min(self.to_look[prompt] if self.below[prompt] else MORE, left[prompt]))


def _most_telling(
    sampler: Spender, now: Evidence, prompts: np.ndarray, left: np.ndarray
) -> dict[tuple[str, int], list[int]]:
    """Each prompt under the measurement with the largest expected entropy drop, where that is worth it. Where nothing
    is and only its own samples do not say yet that success is out of reach, rollouts."""

    def candidates(prompt: int) -> dict[str, tuple[str, ...]]:
        options = dict(sampler.candidates(prompt))
        if now.certain[prompt]:
            del options["rollouts"]
        return options

    asked = {prompt: candidates(prompt) for prompt in prompts}
    useful = {rate for options in asked.values() for rates in options.values() for rate in rates}
    part = now.posteriors.at(prompts)
    drops = {rate: entropy_drop(part, rate, MORE) for rate in sorted(useful)}
    chosen = defaultdict(list)
    for row, prompt in enumerate(prompts):
        promise = {name: max(drops[rate][row] for rate in rates) for name, rates in asked[prompt].items()}
        best = max(promise, key=promise.get, default=None)
        if best is None or promise[best] < WORTH:
            best = "rollouts" if now.below[prompt] and not now.certain[prompt] else None
        if best is not None:
            samples = now.rollouts(prompt, left) if best == "rollouts" else MORE
            chosen[best, samples].append(prompt)
    return chosen


def _any(masks: Mapping[str, np.ndarray]) -> np.ndarray:
    return np.logical_or.reduce(list(masks.values())) if masks else np.bool_(False)
