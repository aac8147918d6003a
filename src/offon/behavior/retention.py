"""What a stage hands on: how much of what was there is still there, on which prompts, with and without help.

Signs and memberships are chosen on one half of a prompt's samples and values taken from the other, averaged over all
halvings (see `decompose`): between identical checkpoints every loss and gain then has mean 0, where choosing and
measuring on the same samples would find losses everywhere.

Axes: P prompts; H possible numbers of successes in a half.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from offon.behavior.counts import Counts
from offon.behavior.decompose import half_successes
from offon.behavior.intervals import Est, bootstrap_means, clopper_pearson_lower, clopper_pearson_upper, stretch
from offon.behavior.intervals import mean_over_prompts as over_prompts
from offon.behavior.passk import mixed_group_probability, pass_at_k
from offon.behavior.support import IN, OUT, support_calls
from offon.errors import DataError


def ratio(top_P, bottom_P, *, level: float = 0.95, seed: int = 0) -> Est:
    """Sum of tops over sum of bottoms, with its stretched percentile interval; NaN where nothing is below."""
    rows = np.column_stack([np.asarray(top_P, float), np.asarray(bottom_P, float)])
    top_B, bottom_B = bootstrap_means(rows, seed=seed).T
    with np.errstate(divide="ignore", invalid="ignore"):
        estimate, ratios_B = rows[:, 0].sum() / rows[:, 1].sum(), top_B / bottom_B
    low, high = np.nanquantile(ratios_B, [(1 - level) / 2, (1 + level) / 2]) if len(ratios_B) else (np.nan, np.nan)
    wider = float(stretch(rows[:, :1] - estimate * rows[:, 1:], level)[0])  # the part that makes the ratio uncertain
    low, high = estimate + wider * (low - estimate), estimate + wider * (high - estimate)
    return Est(float(estimate), float(min(low, estimate)), float(max(high, estimate)))


def split_product(
    before: Counts, after: Counts, weight: Callable[[Counts, Counts], np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """E[w(A)] and E[w(A) e(B)], both [P], over all ways to halve the samples of both checkpoints.

    w sees one half (A) of each checkpoint's counts, e is the change of success in the other half (B).
    """
    weights, products = np.zeros(len(before.scored)), np.zeros(len(before.scored))
    for p, (c0, n0, c1, n1) in enumerate(zip(*before, *after, strict=True)):
        for larger in (0, 1):
            m0, m1 = (n0 + larger) // 2, (n1 + larger) // 2
            (a0_H, law0_H), (a1_H, law1_H) = half_successes(c0, n0, m0), half_successes(c1, n1, m1)
            grid0, grid1 = (grid.ravel() for grid in np.meshgrid(a0_H, a1_H, indexing="ij"))
            law = np.outer(law0_H, law1_H).ravel()
            seen = weight(Counts(grid0, np.full_like(grid0, m0)), Counts(grid1, np.full_like(grid1, m1)))
            change = (c1 - grid1) / (n1 - m1) - (c0 - grid0) / (n0 - m0)
            weights[p] += (law * seen).sum() / 2
            products[p] += (law * seen * change).sum() / 2
    return weights, products


def attrition_rate(before: Counts, after: Counts, *, seed: int = 0) -> Est:
    """ATT = sum_x (p_before - p_after)_+ / sum_x p_before: the share of earlier success that was lost somewhere, gains
    elsewhere not set off against it. Retention is 1 - ATT. Which prompts fell is judged on the other half."""

    def fell(a: Counts, b: Counts) -> np.ndarray:
        return (b.rate < a.rate).astype(float)

    _, change_P = split_product(before, after, fell)
    return ratio(-change_P, before.rate, seed=seed)


def retention(before: Counts, after: Counts, *, seed: int = 0) -> Est:
    lost = attrition_rate(before, after, seed=seed)
    return Est(1 - lost.estimate, 1 - lost.high, 1 - lost.low)


def gain_retention(start: Counts, gained: Counts, later: Counts, *, alpha: float = 0.05, seed: int = 0) -> Est:
    """How much of what one stage gained the next one kept, over prompts whose gain is certain on the other half.

    RG = sum w (p_later - p_start) / sum w (p_gained - p_start),    w = 1 if lower(p_gained) > upper(p_start)
    """

    def certain(a: Counts, b: Counts) -> np.ndarray:
        return (clopper_pearson_lower(*b, alpha=alpha / 2) > clopper_pearson_upper(*a, alpha=alpha / 2)).astype(float)

    weight_P, gain_P = split_product(start, gained, certain)
    if not weight_P.any():
        raise DataError("no prompt has a certain gain", why="gain retention is over prompts that gained")
    _, from_gained_P = split_product(gained, later, lambda a, b: np.ones(len(a.scored)))
    return ratio(gain_P + weight_P * from_gained_P, gain_P, seed=seed)


def selective_forgetting(before: Counts, after: Counts, protected_P: np.ndarray, *, seed: int = 0) -> Est:
    """ATT on what was meant to change minus ATT on what was protected; each over its own prompts."""
    protected_P = np.asarray(protected_P, bool)
    meant, kept = (
        attrition_rate(before.at(chosen), after.at(chosen), seed=seed) for chosen in (~protected_P, protected_P)
    )
    half = np.hypot(meant.high - meant.low, kept.high - kept.low) / 2
    value = meant.estimate - kept.estimate
    return Est(value, value - half, value + half)


def support_sets(before: Counts, after: Counts, k: int) -> dict[str, float]:
    """Counts of prompts certified at budget k, and the ratios published with them (arXiv:2507.14843).

    P kept, E gained, S lost, O never    SRR = P / (P + S)    NDR = E / (P + E)    NSCR = (E - S) / (P + E + S)
    """
    calls = list(zip(support_calls(before, k).tolist(), support_calls(after, k).tolist(), strict=True))
    kept, gained, lost, never = (calls.count(pair) for pair in ((IN, IN), (OUT, IN), (IN, OUT), (OUT, OUT)))

    def share(top: float, bottom: float) -> float:
        return top / bottom if bottom else float("nan")

    srr, ndr = share(kept, kept + lost), share(gained, kept + gained)
    called = {"kept": kept, "gained": gained, "lost": lost, "never": never}
    return called | {
        "undecided": len(calls) - sum(called.values()),
        "srr": srr,
        "ndr": ndr,
        "sds": share(2 * srr * ndr, srr + ndr),
        "nscr": share(gained - lost, kept + gained + lost),
    }


def trainability(counts: Counts, k: int, group_size: int, *, seed: int = 0) -> dict[str, Est]:
    """What a later on-policy stage would find: effective rewardable support ERS_k = mean 1 - (1 - p)^k, and the share
    of groups with both outcomes v_G = mean 1 - p^G - (1 - p)^G. Not implied by retention."""
    return {
        "ers": over_prompts(pass_at_k(counts, k), seed=seed)[0],
        "mixed_groups": over_prompts(mixed_group_probability(counts, group_size), seed=seed)[0],
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


def scaffold_dependence(plain: Counts, scaffolded: Counts, *, seed: int = 0) -> Est:
    """SDG = success with the scaffold minus success without, paired by prompt."""
    return over_prompts(scaffolded.rate - plain.rate, seed=seed)[0]


def amortisation(plain_before: Counts, scaffolded_before: Counts, plain_after: Counts, *, seed: int = 0) -> Est:
    """AM = (J_plain(after) - J_plain(before)) / (J_scaffolded(before) - J_plain(before)): the share of the scaffold's
    help that became the model's own. Means something only where the scaffold helps beyond its interval."""
    help_ = scaffold_dependence(plain_before, scaffolded_before, seed=seed)
    if help_.low <= 0:
        raise DataError(f"the scaffold helps by {help_}", why="there is nothing certain to amortise")
    return ratio(plain_after.rate - plain_before.rate, scaffolded_before.rate - plain_before.rate, seed=seed)


def cost_per_point(change: Est, cost: float) -> Est | None:
    """What a percentage point of success cost: cost / (100 change). The cost is known without error, so the interval is
    the change's turned over (Fieller's, with nothing uncertain above). None unless the change is a gain for certain: a
    cost per gain of either sign has no finite interval."""
    if change.low <= 0:
        return None
    return Est(*(cost / (100 * gain) for gain in (change.estimate, change.high, change.low)))
