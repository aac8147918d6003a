"""Which bottleneck a prompt has: a rule on success probabilities, applied to every draw of their posterior.

First match, on the model's success p_strict <= p_content (content: the verdict with format ignored):

    solved        p_strict >= .8
    truncated     at least half of the failures, and a quarter of all responses, were cut off before they ended
    format        p_content >= .25 and p_strict < .5 p_content
    fragile       another condition of the same model reaches q >= .6 and p_content < .5 q
                  (a scaffold in the prompt, or an earlier checkpoint)
    ranking       p_content >= eps_k         k rollouts hold a success: probability is there, in the wrong place
    local         below; a teacher finishes what the model begins, and placed late the model finishes: a step blocks it
    unreachable   below; a teacher cannot save what the model begins, and after the first right step the model finishes
    missing       below, otherwise: it does not finish even when placed late, or several steps are in its way

placed late: after as many steps of a right response as do not give the answer away, it succeeds with A >= .5; `begun`,
after the first of them. A late placement alone tells little: a response whose end is easy is finished from there
whatever comes before. Several steps are in its way where two or more of those between the two have a token that the
model takes with less than .3, and success after the first is less than half of what the worst of them alone would
leave of it (a right response may be worded in a way that is rare and no barrier). Right responses are whole ones in
the model's manner: a teacher's, the task's, its own rare ones. A final answer places nobody.
What the model begins is alive if a teacher finishes its first step with B >= .5, and at least .2 more often than half
of a wrong response to another prompt (a teacher that starts over finishes anything). Where that succeeds in more than
.6 it cannot be told: what is alive would not stand out.
Without a right response or a teacher the last three cannot be told apart; together they are `unsupported`.

Axes: P prompts, D posterior draws, C classes.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import NamedTuple

import numpy as np

from offon.behavior.change.support import ZETA, support_threshold
from offon.behavior.statistics.checker_errors import Checker
from offon.behavior.statistics.counts import Counts
from offon.behavior.statistics.posterior import rate_quantiles
from offon.errors import DataError

CLASSES = ("solved", "truncated", "format", "fragile", "ranking", "local", "unreachable", "missing")
BELOW_SUPPORT = ("local", "unreachable", "missing")
UNSUPPORTED, UNDECIDED = "unsupported", "undecided"
CALLS = (*CLASSES, UNSUPPORTED, UNDECIDED)
BELOW = [CLASSES.index(name) for name in BELOW_SUPPORT]
DRAWS = 512


@dataclass(frozen=True, kw_only=True)
class Rule:
    """The thresholds of the rule above, and how sure a call must be.

    below: how sure a call among the last three must be, by the prompt's own samples, that success is out of reach. No
    success is what a prompt at the threshold shows by luck: at k = 64, .9 is reached by 29 failures, which one in four
    such prompts shows; .97 by 50, which one in ten does.
    """

    solved: float = 0.8
    truncated: float = 0.25
    truncated_failures: float = 0.5
    format_content: float = 0.25
    format_ratio: float = 0.5
    fragile: float = 0.6
    fragile_ratio: float = 0.5
    competent: float = 0.5
    improbable: float = 0.3
    one_step: float = 0.5
    alive: float = 0.5
    over_placebo: float = 0.2
    zeta: float = ZETA
    confidence: float = 0.9
    below: float = 0.97


class Barriers(NamedTuple):
    """Steps of a right response between its first and where the model is placed late, by the model's probabilities.

    improbable   [P] how many hold a token below `Rule.improbable`
    least        [P] the smallest token probability among them; 1 where nothing is known
    """

    improbable: np.ndarray
    least: np.ndarray

    def at(self, prompts) -> Barriers:
        return Barriers(self.improbable[prompts], self.least[prompts])


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Counts of one model on P prompts; a prompt with 0 scored was not measured in that way.

    content             the same samples as strict, format ignored
    scaffold            the prompt with its scaffold
    previous            earlier checkpoints on the plain prompt, by name
    cut                 of the failures among those samples, the ones that did not end by themselves
    begun               the model after the first step of a right response
    placed              the model after a right response's steps, as far as they do not give the answer away
    barriers            of that response
    finished            a teacher after the model's first step
    placebo             a teacher after the first half of the model's wrong response to another prompt, one that begins
                        with the same step where there is one
    at_least            [P] what success is known to reach: the probability of right responses already seen, exact
    """

    strict: Counts
    content: Counts | None = None
    scaffold: Counts | None = None
    previous: Mapping[str, Counts] = field(default_factory=dict)
    cut: Counts | None = None
    begun: Counts | None = None
    placed: Counts | None = None
    barriers: Barriers | None = None
    finished: Counts | None = None
    placebo: Counts | None = None
    at_least: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.strict.scored)

    @property
    def conditions(self) -> dict[str, Counts]:
        """The other conditions of the same model, by the name of their rate."""
        helped = {"scaffold": self.scaffold} if self.scaffold is not None else {}
        return helped | {earlier(name): counts for name, counts in self.previous.items()}

    def at(self, prompts) -> Measured:
        counts = {name: part.at(prompts) for name, part in vars(self).items() if isinstance(part, Counts | Barriers)}
        previous = {name: counts.at(prompts) for name, counts in self.previous.items()}
        return Measured(**counts, previous=previous, at_least=None if self.at_least is None else self.at_least[prompts])


def earlier(name: str) -> str:
    """What the rate of an earlier checkpoint is called."""
    return f"previous {name}"


@dataclass(frozen=True)
class Posterior:
    """Draws of every rate [D, P] by name, the class each draw falls into [D, P], and how sure each prompt's own samples
    make it that content success is below eps_k [P]: Jeffreys' prior, whatever the other prompts show."""

    rates: Mapping[str, np.ndarray]
    classes: np.ndarray
    beyond: np.ndarray

    def at(self, prompts) -> Posterior:
        rates = {name: p_DP[:, prompts] for name, p_DP in self.rates.items()}
        return Posterior(rates, self.classes[:, prompts], self.beyond[prompts])

    @property
    def probabilities(self) -> np.ndarray:
        """[P, C]"""
        return (self.classes[:, :, None] == np.arange(len(CLASSES))).mean(axis=0)


def posterior(measured: Measured, k: int, rule: Rule = Rule(), *, checker: Checker | None = None) -> Posterior:
    """Independent posteriors of all rates (`offon.behavior.statistics.posterior`), and the rule applied to each joint
    draw.

    p_strict = p_content * ratio, the ratio on the content successes; where there is no content verdict p_strict stands
    in for p_content and format cannot occur. Another condition that was not measured counts as no better; a placement
    that was not measured keeps its prior, and with it the doubt. Draws are a fixed lattice, so that with fewer than 100
    prompts an answer depends on its own counts alone; from there on the prior of p_content is estimated over the
    prompts. A checker's errors are undone in every rate but the ratio, which compares two of its verdicts.
    """
    strict, none = measured.strict, Counts.of(np.zeros(len(measured), int), 0)
    content = measured.content or none
    knows_P = content.scored > 0
    if (content.scored != strict.scored)[knows_P].any():
        raise DataError("content and strict verdicts cover different samples", why="their ratio is per sample")
    successes_P = np.where(knows_P, content.successes, strict.successes)
    rates: dict[str, Counts] = {
        "content": Counts.of(successes_P, strict.scored),
        "ratio": Counts.of(strict.successes, successes_P),
        **{name: getattr(measured, name) or none for name in ("placed", "finished", "placebo")},
        "begun": measured.begun or measured.placed or none,
        **({"cut": measured.cut} if measured.cut is not None else {}),
        **measured.conditions,
    }
    at_least = measured.at_least if checker is None else None  # what a checker with errors accepts may be wrong
    special = {"content": {"checker": checker, "pooled": True, "at_least_P": at_least}, "ratio": {}, "cut": {}}
    draws = {
        name: rate_quantiles(counts, quantile_D, **special.get(name, {"checker": checker}))
        for (name, counts), quantile_D in zip(rates.items(), lattice(len(rates)).T, strict=True)
    }
    known = {name: np.where(rates[name].scored > 0, draws[name], 0.0) for name in measured.conditions}
    p_strict = draws["content"] * np.where(knows_P, draws["ratio"], 1.0)
    better = np.maximum.reduce([np.zeros_like(p_strict), *known.values()])
    draws["strict"] = p_strict
    same_P = np.all(np.equal(rates["begun"], rates["placed"]), axis=0)  # one prefix, measured once
    draws["begun"] = np.where(same_P, draws["placed"], draws["begun"])
    several = _several(draws, measured.barriers, rule)
    coin_D1 = np.random.default_rng(0).random((DRAWS, 1)) < 0.5
    classes = classify({**draws, "better": better, "coin": coin_D1, "several": several}, k, rule)
    alone = rate_quantiles(rates["content"], lattice(1)[:, 0], checker=checker, at_least_P=at_least)
    return Posterior(draws, classes, (alone < support_threshold(k, zeta=rule.zeta)).mean(axis=0))


def classify(rates: Mapping[str, np.ndarray], k: int, rule: Rule = Rule()) -> np.ndarray:
    """The rule on success probabilities, elementwise: indices into CLASSES. rates: strict, content, better (the best
    other condition), placed, finished, placebo; begun (without: as placed); cut, the share of failures that were cut
    off; several, whether several steps are in the way; coin: stands for alive where that cannot be told (without:
    dead)."""
    strict, content, better = (rates[name] for name in ("strict", "content", "better"))
    cut = rates.get("cut", np.zeros_like(strict))
    begins = rates.get("begun", rates["placed"]) >= rule.competent
    competent = rates["placed"] >= rule.competent
    conditions = {
        "solved": strict >= rule.solved,
        "truncated": (cut >= rule.truncated_failures) & (cut * (1 - strict) >= rule.truncated),
        "format": (content >= rule.format_content) & (strict < rule.format_ratio * content),
        "fragile": (better >= rule.fragile) & (content < rule.fragile_ratio * better),
        "ranking": content >= support_threshold(k, zeta=rule.zeta),
        "local": competent & alive(rates, rule) & ~np.asarray(rates.get("several", False), bool),
        "unreachable": begins & competent & ~alive(rates, rule),
    }
    return np.select(list(conditions.values()), [CLASSES.index(name) for name in conditions], CLASSES.index("missing"))


def _several(draws: Mapping[str, np.ndarray], barriers: Barriers | None, rule: Rule) -> np.ndarray:
    """[D, P] whether several steps are in the way: two are improbable, and the worst of them alone does not explain how
    seldom the model finishes after the first step."""
    if barriers is None:
        return np.zeros_like(draws["placed"], bool)
    return several(barriers, draws["begun"], draws["placed"], rule)


def several(barriers: Barriers, begun, placed, rule: Rule = Rule()) -> np.ndarray:
    return (barriers.improbable >= 2) & (begun < rule.one_step * barriers.least * placed)


def alive(rates: Mapping[str, np.ndarray], rule: Rule = Rule()) -> np.ndarray:
    """Whether a teacher finishes what the model begins, and not because it starts over."""
    finished, placebo = rates["finished"], rates["placebo"]
    seen = (finished >= rule.alive) & (finished - placebo >= rule.over_placebo)
    return np.where(starts_over(rates, rule), rates.get("coin", False), seen)


def starts_over(rates: Mapping[str, np.ndarray], rule: Rule = Rule()) -> np.ndarray:
    """Where a teacher succeeds after what is surely wrong so often that what is alive would not stand out: a beginning
    that is alive with probability a makes of placebo q  q + a (1 - q), at a = .5 less than .2 more if q > .6."""
    return rates["placebo"] > 1 - rule.over_placebo / rule.alive


@cache
def lattice(dimensions: int) -> np.ndarray:
    """[DRAWS, dimensions] points spread evenly over the unit cube, always the same: scrambled Sobol'."""
    from scipy.stats import qmc  # half a second to import: who only checks a recipe does not draw

    return qmc.Sobol(dimensions, rng=0).random(DRAWS)


def open_to_fragile(posteriors: Posterior, rule: Rule = Rule()) -> np.ndarray:
    """[P] whether a condition that was not tried could still make it fragile: what is called after that class, with
    content low enough, is likelier than a call may be wrong."""
    later_DP = posteriors.classes > CLASSES.index("fragile")
    return (later_DP & (posteriors.rates["content"] < rule.fragile_ratio)).mean(axis=0) > 1 - rule.confidence


def below_support(posteriors: Posterior, rule: Rule = Rule()) -> np.ndarray:
    """[P] whether success is surely enough out of reach, by the prompt's own samples and with those of the others."""
    return (posteriors.beyond >= rule.below) & (posteriors.probabilities[:, BELOW].sum(axis=1) >= rule.confidence)


def decided(posteriors: Posterior, rule: Rule = Rule()) -> np.ndarray:
    """[P] whether one class is sure enough to be called."""
    shares_PC = posteriors.probabilities
    sure_P = shares_PC.max(axis=1) >= rule.confidence
    return sure_P & (~np.isin(shares_PC.argmax(axis=1), BELOW) | below_support(posteriors, rule))


def class_calls(posteriors: Posterior, rule: Rule = Rule(), *, withheld: Collection[str] = ()) -> list[str]:
    """[P] the most probable class where it is sure enough and not withheld; else unsupported, where only the kind of
    missing support is open; else undecided."""

    def call(best: str, sure: bool, below: bool) -> str:
        if sure and best not in withheld:
            return best
        return UNSUPPORTED if below and UNSUPPORTED not in withheld else UNDECIDED

    best_P = np.array(CLASSES)[posteriors.probabilities.argmax(axis=1)].tolist()
    rows = zip(best_P, decided(posteriors, rule), below_support(posteriors, rule), strict=True)
    return [call(*row) for row in rows]
