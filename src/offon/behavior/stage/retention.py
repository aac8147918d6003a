"""What a stage hands on: how much of what was there is still there, on which prompts, with and without help.

Signs and memberships are chosen on one half of a prompt's samples and values taken from the other, averaged over all
halvings (see `decompose`): between identical checkpoints every loss and gain then has mean 0, where choosing and
measuring on the same samples would find losses everywhere.

Axes: P prompts; H possible numbers of successes in a half.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from offon.behavior.change.success_decomposition import half_successes
from offon.behavior.statistics.counts import Counts
from offon.behavior.statistics.intervals import (
    Clusters,
    Est,
    bootstrap_means,
    clopper_pearson_lower,
    clopper_pearson_upper,
    mean_over_prompts,
    paired_change,
    ratio,
)
from offon.behavior.statistics.pass_at_k import mixed_group_probability, pass_at_k
from offon.errors import DataError


def split_product(
    before: Counts, after: Counts, weight: Callable[[Counts, Counts], np.ndarray]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """E[w(A)], E[w(A) s0(B)] and E[w(A) s1(B)], each [P], over all ways to halve the samples of both checkpoints.

    w sees one half (A) of each checkpoint's counts; s0 and s1 are success before and after in the other half (B).
    """
    expectations = np.zeros((3, len(before.scored)))
    for n0, n1 in set(zip(before.scored.tolist(), after.scored.tolist(), strict=True)):
        same = (before.scored == n0) & (after.scored == n1)
        for larger in (0, 1):
            m0, m1 = (n0 + larger) // 2, (n1 + larger) // 2
            law0_PH, rest0_PH = _halves(before.successes[same], n0, m0)
            law1_PI, rest1_PI = _halves(after.successes[same], n1, m1)
            first, second = (grid.ravel() for grid in np.meshgrid(np.arange(m0 + 1), np.arange(m1 + 1), indexing="ij"))
            seen = weight(Counts(first, np.full_like(first, m0)), Counts(second, np.full_like(second, m1)))
            left_PI = law0_PH @ seen.reshape(m0 + 1, m1 + 1)
            left_before_PI = (law0_PH * rest0_PH) @ seen.reshape(m0 + 1, m1 + 1)
            expectations[:, same] += [
                (left_PI * law1_PI).sum(axis=1) / 2,
                (left_before_PI * law1_PI).sum(axis=1) / 2,
                (left_PI * law1_PI * rest1_PI).sum(axis=1) / 2,
            ]
    return tuple(expectations)


def _halves(successes_P: np.ndarray, n: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Probability of each number of successes in a half of `size`, and success in the rest then, [P, H] each."""
    law_PH = np.zeros((len(successes_P), size + 1))
    for c in set(successes_P.tolist()):
        a_H, law_H = half_successes(c, n, size)
        law_PH[np.ix_(successes_P == c, a_H)] = law_H
    return law_PH, (successes_P[:, None] - np.arange(size + 1)) / (n - size)


def attrition_rate(before: Counts, after: Counts, *, clusters: Clusters = None) -> Est:
    """ATT = sum_x (p_before - p_after)_+ / sum_x p_before: the share of earlier success that was lost somewhere, gains
    elsewhere not set off against it. Retention is 1 - ATT. Which prompts fell is judged on the other half, so the
    estimate may be a little below 0; the interval stays within -1 and 1."""

    def fell(a: Counts, b: Counts) -> np.ndarray:
        return (b.rate < a.rate).astype(float)

    _, before_P, after_P = split_product(before, after, fell)
    lost = ratio(before_P - after_P, before.rate, clusters=clusters)
    return Est(lost.estimate, max(lost.low, min(lost.estimate, -1.0)), min(lost.high, max(lost.estimate, 1.0)))


def retention(before: Counts, after: Counts, *, clusters: Clusters = None) -> Est:
    lost = attrition_rate(before, after, clusters=clusters)
    return Est(1 - lost.estimate, 1 - lost.high, 1 - lost.low)


def gain_retention(start: Counts, gained: Counts, later: Counts, *, alpha: float = 0.05) -> Est:
    """How much of what one stage gained the next one kept, over prompts whose gain is certain on the other half.

    RG = sum w (p_later - p_start) / sum w (p_gained - p_start),    w = 1 if lower(p_gained) > upper(p_start)
    """

    def certain(a: Counts, b: Counts) -> np.ndarray:
        return (clopper_pearson_lower(*b, alpha=alpha / 2) > clopper_pearson_upper(*a, alpha=alpha / 2)).astype(float)

    weight_P, start_P, gained_P = split_product(start, gained, certain)
    if not weight_P.any():
        raise DataError("no prompt has a certain gain", why="gain retention is over prompts that gained")
    kept = ratio(weight_P * later.rate - start_P, gained_P - start_P)
    if not np.isfinite(kept).all():
        gaining = int((weight_P > 0).sum())
        raise DataError(
            f"{gaining} of {len(weight_P)} prompts have a certain gain", why="too few to bound what was kept"
        )
    return kept


def selective_forgetting(before: Counts, after: Counts, protected_P: np.ndarray) -> Est:
    """ATT on what was meant to change minus ATT on what was protected; each over its own prompts. Their intervals are
    put together side by side, as `newcombe` does."""
    protected_P = np.asarray(protected_P, bool)
    meant, kept = (attrition_rate(before.at(chosen), after.at(chosen)) for chosen in (~protected_P, protected_P))
    value = meant.estimate - kept.estimate
    below = np.hypot(meant.estimate - meant.low, kept.high - kept.estimate)
    above = np.hypot(meant.high - meant.estimate, kept.estimate - kept.low)
    return Est(value, float(value - below), float(value + above))


def trainability(counts: Counts, k: int, group_size: int, *, clusters: Clusters = None) -> dict[str, Est]:
    """What a later on-policy stage would find: effective rewardable support ERS_k = mean 1 - (1 - p)^k, and the share
    of groups with both outcomes v_G = mean 1 - p^G - (1 - p)^G. Not implied by retention."""
    return {
        "ers": mean_over_prompts(pass_at_k(counts, k), clusters=clusters)[0],
        "mixed_groups": mean_over_prompts(mixed_group_probability(counts, group_size), clusters=clusters)[0],
    }


def portability(change_there_P, change_here_P, *, seed: int = 0) -> Est:
    """Gain on shifted prompts over gain on the prompts trained for: resampled apart, since they are other prompts."""
    there_B, here_B = (
        bootstrap_means(np.asarray(change, float), seed=seed + i)[:, 0]
        for i, change in enumerate((change_there_P, change_here_P))
    )
    estimate = float(np.mean(change_there_P) / np.mean(change_here_P))
    low, high = np.quantile(there_B / here_B, [0.025, 0.975])
    return Est(estimate, float(min(low, estimate)), float(max(high, estimate)))


def scaffold_dependence(plain: Counts, scaffolded: Counts) -> Est:
    """SDG = success with the scaffold minus success without, paired by prompt."""
    return paired_change(plain.rate, scaffolded.rate)


def amortisation(plain_before: Counts, scaffolded_before: Counts, plain_after: Counts) -> Est:
    """AM = (J_plain(after) - J_plain(before)) / (J_scaffolded(before) - J_plain(before)): the share of the scaffold's
    help that became the model's own. Means something only where the scaffold helps beyond its interval."""
    help_ = scaffold_dependence(plain_before, scaffolded_before)
    if help_.low <= 0:
        raise DataError(f"the scaffold helps by {help_}", why="there is nothing certain to amortise")
    return ratio(plain_after.rate - plain_before.rate, scaffolded_before.rate - plain_before.rate)


def cost_per_point(change: Est, cost: float) -> Est | None:
    """What a percentage point of success cost: cost / (100 change). The cost is known without error, so the interval is
    the change's turned over (Fieller's, with nothing uncertain above). None unless the change is a gain for certain: a
    cost per gain of either sign has no finite interval."""
    if change.low <= 0:
        return None
    return Est(*(cost / (100 * gain) for gain in (change.estimate, change.high, change.low)))
