"""Which bottleneck a prompt has: a rule on success probabilities, applied to every draw of their posterior.

First match, on the model's success p_strict <= p_content (content: the verdict with format ignored):

    solved        p_strict >= .8
    format        p_content >= .25 and p_strict < .5 p_content
    fragile       another condition of the same model reaches q >= .6 and p_content < .5 q
                  (a scaffold in the prompt, or an earlier checkpoint)
    ranking       p_content >= eps_k         k rollouts hold a success: probability is there, in the wrong place
    local         below, and placed well the model finishes, and a teacher finishes what the model begins
    unreachable   below, and placed well the model finishes, but a teacher cannot save what the model begins
    missing       below, and even placed well the model does not finish

placed well: after as many steps of a teacher's answer as do not give the answer away, it succeeds with A >= .5. What
the model begins is alive if a teacher finishes its first step with B >= .5, and at least .2 more often than half of a
wrong response to another prompt (a teacher that starts over finishes anything).
Without a teacher the last three cannot be told apart; together they are `unsupported`.

Axes: P prompts, D posterior draws, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy import special

from offon.behavior.counts import Counts
from offon.behavior.intervals import jeffreys_above, jeffreys_quantile
from offon.behavior.support import ZETA, support_threshold
from offon.errors import DataError

CLASSES = ("solved", "format", "fragile", "ranking", "local", "unreachable", "missing")
BELOW_SUPPORT = ("local", "unreachable", "missing")
UNSUPPORTED, UNDECIDED = "unsupported", "undecided"
CALLS = (*CLASSES, UNSUPPORTED, UNDECIDED)
DRAWS = 512


@dataclass(frozen=True, kw_only=True)
class Rule:
    """The thresholds of the rule above, and how sure a call must be."""

    solved: float = 0.8
    format_content: float = 0.25
    format_ratio: float = 0.5
    fragile: float = 0.6
    fragile_ratio: float = 0.5
    competent: float = 0.5
    alive: float = 0.5
    over_placebo: float = 0.2
    zeta: float = ZETA
    confidence: float = 0.9


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Counts of one model on P prompts; a prompt with 0 scored was not measured in that way.

    content             the same samples as strict, format ignored
    scaffold, previous  another condition: the prompt with its scaffold, or an earlier checkpoint
    placed              the model after a teacher's steps, as far as they do not give the answer away
    finished            a teacher after the model's first step
    placebo             a teacher after the first half of the model's wrong response to another prompt
    """

    strict: Counts
    content: Counts | None = None
    scaffold: Counts | None = None
    previous: Counts | None = None
    placed: Counts | None = None
    finished: Counts | None = None
    placebo: Counts | None = None

    def __len__(self) -> int:
        return len(self.strict.scored)

    def at(self, prompts) -> Measured:
        return Measured(**{name: counts and counts.at(prompts) for name, counts in vars(self).items()})


@dataclass(frozen=True)
class Posterior:
    """Draws of every rate [D, P] by name, and the class each draw falls into [D, P]."""

    rates: Mapping[str, np.ndarray]
    classes: np.ndarray

    def at(self, prompts) -> Posterior:
        return Posterior({name: p_DP[:, prompts] for name, p_DP in self.rates.items()}, self.classes[:, prompts])

    @property
    def probabilities(self) -> np.ndarray:
        """[P, C]"""
        return (self.classes[:, :, None] == np.arange(len(CLASSES))).mean(axis=0)


def posterior(measured: Measured, k: int, rule: Rule = Rule()) -> Posterior:
    """Independent Jeffreys posteriors of all rates, and the rule applied to each joint draw.

    p_strict = p_content * ratio, the ratio on the content successes; where there is no content verdict p_strict stands
    in for p_content and format cannot occur. Another condition that was not measured counts as no better; a placement
    that was not measured keeps its prior, and with it the doubt. Draws are a fixed lattice, so that a
    prompt's answer depends on its own counts alone.
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
        **{name: getattr(measured, name) or none for name in ("scaffold", "previous", "placed", "finished", "placebo")},
    }
    draws = {
        name: _draws(counts, quantile_D)
        for (name, counts), quantile_D in zip(rates.items(), lattice(len(rates)).T, strict=True)
    }
    p_content = draws["content"]
    p_strict = p_content * np.where(knows_P, draws["ratio"], 1.0)
    better = np.maximum(*(np.where(rates[name].scored > 0, draws[name], 0.0) for name in ("scaffold", "previous")))
    classes = classify({**draws, "strict": p_strict, "better": better}, k, rule)
    return Posterior(draws, classes)


def _draws(counts: Counts, quantile_D: np.ndarray) -> np.ndarray:
    """[D, P] quantiles of the Jeffreys posteriors, each distinct pair of counts once."""
    distinct_U, where_P = np.unique(np.stack(counts, axis=1), axis=0, return_inverse=True)
    return jeffreys_quantile(*distinct_U.T, quantile_D[:, None])[:, where_P.ravel()]


def classify(rates: Mapping[str, np.ndarray], k: int, rule: Rule = Rule()) -> np.ndarray:
    """The rule on success probabilities, elementwise: indices into CLASSES. rates: strict, content, better (the best
    other condition), placed, finished, placebo."""
    strict, content, better, finished = (rates[name] for name in ("strict", "content", "better", "finished"))
    competent = rates["placed"] >= rule.competent
    alive = (finished >= rule.alive) & (finished - rates["placebo"] >= rule.over_placebo)
    conditions = {
        "solved": strict >= rule.solved,
        "format": (content >= rule.format_content) & (strict < rule.format_ratio * content),
        "fragile": (better >= rule.fragile) & (content < rule.fragile_ratio * better),
        "ranking": content >= support_threshold(k, zeta=rule.zeta),
        "local": competent & alive,
        "unreachable": competent,
    }
    return np.select(list(conditions.values()), [CLASSES.index(name) for name in conditions], CLASSES.index("missing"))


@cache
def lattice(dimensions: int) -> np.ndarray:
    """[DRAWS, dimensions] points spread evenly over the unit cube, always the same: scrambled Sobol'."""
    from scipy.stats import qmc  # half a second to import: who only checks a recipe does not draw

    return qmc.Sobol(dimensions, rng=0).random(DRAWS)


def class_calls(probabilities_PC: np.ndarray, rule: Rule = Rule()) -> list[str]:
    """[P] the most probable class where its probability reaches the rule's confidence; else unsupported, where only the
    kind of missing support is open; else undecided."""
    below = [CLASSES.index(name) for name in BELOW_SUPPORT]

    def call(row: np.ndarray) -> str:
        best = int(row.argmax())
        if row[best] >= rule.confidence:
            return CLASSES[best]
        return UNSUPPORTED if row[below].sum() >= rule.confidence else UNDECIDED

    return [call(row) for row in probabilities_PC]


def entropy_drop(found: Posterior, rate: str, samples: int) -> np.ndarray:
    """[P] expected fall of the class entropy, in nats, if `samples` more outcomes of one rate were seen.

    Each draw of the posterior predicts them: outcome c has probability mean_d Binomial(c; samples, p_d), and seen,
    reweighs the draws by it. Content and strict outcomes come from the same rollouts: for the ratio of the two, samples
    are content successes.
    """
    from scipy.stats import entropy

    p_DP, n = found.rates[rate], samples
    outcomes = np.arange(n + 1)[:, None, None]
    log_weight = special.xlogy(outcomes, p_DP) + special.xlog1py(n - outcomes, -p_DP)
    weight_ODP = np.exp(log_weight + np.log(special.comb(n, outcomes)))
    predicted_OP = weight_ODP.mean(axis=1)
    one_hot_PDC = (found.classes.T[:, :, None] == np.arange(len(CLASSES))).astype(float)
    joint_OPC = (weight_ODP.transpose(2, 0, 1) @ one_hot_PDC).transpose(1, 0, 2) / len(p_DP)
    given_OPC = joint_OPC / np.maximum(predicted_OP, 1e-300)[:, :, None]
    after_P = (predicted_OP * entropy(given_OPC, axis=2)).sum(axis=0)
    return np.nan_to_num(entropy(found.probabilities, axis=1) - after_P)


def samples_to_call_unsupported(k: int, rule: Rule = Rule()) -> int:
    """The fewest samples after which no success at all is called `unsupported` (about .45 k)."""
    n = np.arange(1, 2 * k + 2)
    return int(n[np.argmax(1 - jeffreys_above(0, n, support_threshold(k, zeta=rule.zeta)) >= rule.confidence)])


def rogan_gladen(rate, sensitivity: float, false_positive: float):
    """The success probability behind a noisy verifier: (observed - FPR) / (TPR - FPR), clipped to [0, 1]."""
    youden = sensitivity - false_positive
    if youden <= 0:
        raise DataError(
            f"the verifier accepts wrong answers as often as right ones (TPR {sensitivity}, FPR {false_positive})",
            why="no rate can be recovered, and training on it learns the opposite or nothing",
        )
    return np.clip((np.asarray(rate, float) - false_positive) / youden, 0, 1)
