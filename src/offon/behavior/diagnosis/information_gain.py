"""Which measurement would tell most about a prompt: the expected fall of the entropy of its class.

Axes: P prompts, D posterior draws, C classes, O outcomes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import special

from offon.behavior.change.support import support_threshold
from offon.behavior.diagnosis.bottleneck import CLASSES, UNDECIDED, UNSUPPORTED, Posterior, Rule
from offon.behavior.statistics.intervals import jeffreys_above

SAMPLES = 8  # of one further measurement
MEASUREMENTS = dict.fromkeys(("content", "ratio", "cut"), "rollouts")  # other rates have the name of their measurement


def entropy_drop(posteriors: Posterior, rate: str, samples: int = SAMPLES) -> np.ndarray:
    """[P] expected fall of the class entropy, in nats, if `samples` more outcomes of one rate were seen.

    Each draw of the posterior predicts them: outcome c has probability mean_d Binomial(c; samples, p_d), and seen,
    reweighs the draws by it. Content and strict outcomes come from the same rollouts: for the ratio of the two, samples
    are content successes.
    """
    from scipy.stats import entropy  # half a second to import: who only checks a recipe does not measure

    p_DP, n = posteriors.rates[rate], samples
    outcomes = np.arange(n + 1)[:, None, None]
    log_weight = special.xlogy(outcomes, p_DP) + special.xlog1py(n - outcomes, -p_DP)
    weight_ODP = np.exp(log_weight + np.log(special.comb(n, outcomes)))
    predicted_OP = weight_ODP.mean(axis=1)
    one_hot_PDC = (posteriors.classes.T[:, :, None] == np.arange(len(CLASSES))).astype(float)
    joint_OPC = (weight_ODP.transpose(2, 0, 1) @ one_hot_PDC).transpose(1, 0, 2) / len(p_DP)
    given_OPC = joint_OPC / np.maximum(predicted_OP, 1e-300)[:, :, None]
    after_P = (predicted_OP * entropy(given_OPC, axis=2)).sum(axis=0)
    return np.nan_to_num(entropy(posteriors.probabilities, axis=1) - after_P)


def most_telling(posteriors: Posterior, calls: Sequence[str]) -> list[str | None]:
    """[P] for prompts that are not called: the measurement, possible here or not, with the largest expected fall.

    rollouts, scaffold, previous NAME, begun, placed, finished, placebo, as in `Measured`. Another condition that was
    not tried yet counts as no better and promises nothing.
    """
    open_P = [index for index, call in enumerate(calls) if call in (UNDECIDED, UNSUPPORTED)]
    measurements: list[str | None] = [None] * len(calls)
    if open_P:
        part = posteriors.at(open_P)
        drops = {rate: entropy_drop(part, rate) for rate in posteriors.rates if rate != "strict"}
        for row, index in enumerate(open_P):
            best = max(drops, key=lambda rate: drops[rate][row])
            measurements[index] = MEASUREMENTS.get(best, best)
    return measurements


def samples_to_call_unsupported(k: int, rule: Rule = Rule()) -> int:
    """The fewest samples after which no success at all is called `unsupported` (about .85 k)."""
    n = np.arange(1, 4 * k + 2)
    return int(n[np.argmax(1 - jeffreys_above(0, n, support_threshold(k, zeta=rule.zeta)) >= rule.below)])
