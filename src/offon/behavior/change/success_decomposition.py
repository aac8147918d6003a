"""D1: the change in success between two checkpoints, split by what happened to effective support.

Axes: P prompts; S states of one checkpoint on one prompt (IN, OUT, undecided); a half is a random half of the samples.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np
from scipy import special

from offon.behavior.change.support import (
    ALPHA,
    IN,
    OUT,
    UNDECIDED,
    ZETA,
    can_certify,
    jeffreys_states,
    largest_certifiable_k,
    samples_to_certify_out,
    support_calls,
)
from offon.behavior.statistics.counts import Counts
from offon.behavior.statistics.intervals import Clusters, Est, mean_over_prompts, newcombe
from offon.errors import DataError

_WEIGHTINGS = ("certified", "soft")

# state before and after of each term: 0 within reach, 1 out of it; 2 is neither for certain
CELLS = {"expansion": (1, 0), "reshaping": (0, 0), "attrition": (0, 1), "diffuse": (1, 1)}
# attrition is printed as a loss: it enters the sum with a minus
SIGNS = {"expansion": 1, "reshaping": 1, "attrition": -1, "diffuse": 1, "ambiguous": 1}


@dataclass(frozen=True, kw_only=True)
class Decomposition:
    """total = expansion + reshaping - attrition + diffuse (+ ambiguous), exactly, under either weighting.

    certified   cells from Clopper-Pearson calls; what cannot be called is `ambiguous`. Its estimate is what is certain,
                a lower bound of what is gained or lost; its interval reaches to all that fits (`prompt_bounds`)
    soft        cells weighed by their Jeffreys posterior probability: nothing is left over, but prompts near the
                threshold leak into neighbouring cells. Its interval covers that bias: it holds the certified one
    n_half      samples per half (before, after) of the median prompt: certification has only these
    note        which terms the certified weighting could not have shown, and what would
    """

    k: int
    n_prompts: int
    n_half: tuple[int, int]
    total: Est
    certified: dict[str, Est]
    soft: dict[str, Est]
    can_certify_out: bool
    note: str

    def as_dict(self) -> dict:
        """Plain numbers, ready for JSON."""
        plain = {name: {term: est._asdict() for term, est in getattr(self, name).items()} for name in _WEIGHTINGS}
        return asdict(self) | plain | {"n_half": list(self.n_half), "total": self.total._asdict()}


def decompose(
    before: Counts,
    after: Counts,
    *,
    k: int,
    zeta: float = ZETA,
    alpha: float = ALPHA,
    clusters: Clusters = None,
) -> Decomposition:
    """Split the change of mean success over prompts into what support at budget k did.

    Each prompt lies in a cell by its success probability before and after, against eps_k:

        expansion  OUT -> IN        reshaping  IN -> IN        attrition  IN -> OUT        diffuse  OUT -> OUT

    and a cell's term is the change of success inside it. Cells are estimated from the same samples as the change, and
    a prompt that was lucky after looks both gained and better. Cross-fitting removes this: cells from half A, change
    from half B, and the reverse,

        term_Z = mean over prompts of  w_Z(A) e(B) + w_Z(B) e(A),
        e(h)   = (successes in h after) / n1 - (successes in h before) / n0,

    so that terms sum to the measured change because sum_Z w_Z = 1 and e(A) + e(B) is the change, and identical
    checkpoints have mean 0 in each term because A and B are independent. There is no lucky split either: w and e are
    averaged over all ways to halve the samples, which is a sum over the hypergeometric law of a half's successes. The
    result is a function of the counts alone.

    The null mean is exactly 0 when a half holds the same share of the samples before and after (equal n, or even n);
    otherwise off by less than 1 / n. Intervals: 95% over prompts (over clusters of them), from the low end of what the
    calls leave open to its high end; coverage of the exact cells' change: docs/validation.md. A term of width 0 has no
    prompt that may lie in its cell.
    Reference: arXiv:2604.07941, secs 2.3 and 3 (expansion, reshaping, attrition), here at prompt level.
    """
    for name, counts in (("before", before), ("after", after)):
        if (counts.scored < 2).any():
            raise DataError(
                f"{int((counts.scored < 2).sum())} of {len(counts.scored)} prompts have fewer than 2 scored samples",
                where=name,
                why="half of a prompt's samples decides its cell, the other half measures its change",
            )
    if len(before.scored) != len(after.scored):
        raise DataError(f"{len(before.scored)} prompts before, {len(after.scored)} after", why="prompts are compared")

    change_P = after.rate - before.rate
    total = mean_over_prompts(change_P, clusters=clusters)[0]
    if np.ptp(change_P) == 0:  # no spread to resample: as sure as the pooled samples make us
        sums = (before.successes.sum(), before.scored.sum(), after.successes.sum(), after.scored.sum())
        total = Est(total.estimate, *newcombe(*sums))
    terms = prompt_terms(before, after, k, zeta=zeta, alpha=alpha)
    bounds = prompt_bounds(before, after, k, zeta=zeta, alpha=alpha)

    n_half = (int(np.median(before.scored)) // 2, int(np.median(after.scored)) // 2)
    possible = [can_certify(n, k, zeta=zeta, alpha=alpha) for n in n_half]
    return Decomposition(
        k=k,
        n_prompts=len(change_P),
        n_half=n_half,
        total=total,
        **term_intervals(terms, bounds, clusters=clusters),
        can_certify_out=all(OUT in calls for calls in possible),
        note=_what_cannot_be_certified(n_half, possible, k, zeta=zeta, alpha=alpha),
    )


def prompt_terms(
    before: Counts, after: Counts, k: int, *, zeta: float = ZETA, alpha: float = ALPHA, parts: tuple = (1.0, 1.0)
) -> dict[str, dict[str, np.ndarray]]:
    """Each prompt's terms, weighting -> term -> [P]; their means are the decomposition. parts: `cross_fitted_cells`."""

    def certified(half: Counts) -> np.ndarray:
        return _call_states(half, k, zeta=zeta, alpha=alpha)

    return {
        "certified": _named_terms(cross_fitted_cells(before, after, certified, parts=parts)),
        "soft": _named_terms(
            cross_fitted_cells(before, after, lambda half: jeffreys_states(half, k, zeta=zeta), parts=parts)
        ),
    }


def prompt_bounds(
    before: Counts, after: Counts, k: int, *, zeta: float = ZETA, alpha: float = ALPHA, parts: tuple = (1.0, 1.0)
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Between what each prompt's part of a term lies, term -> ([P], [P]), whatever the calls leave undecided.

        low  = certified + min(compatible, 0)        high = certified + max(compatible, 0)

    compatible: its change in the cells whose calls do not contradict the term's (undecided on one side or both). What
    is gained by coming into reach, or given up by leaving it, has one sign: there low = certified. A prompt lies in one
    cell, whose term holds all of its change; so the mean of the exact cells' change lies between the two means, but for
    wrong calls (2.5% each at most).
    """

    def certified(half: Counts) -> np.ndarray:
        return _call_states(half, k, zeta=zeta, alpha=alpha)

    cells_PSS, bounds = cross_fitted_cells(before, after, certified, parts=parts), {}
    for term, (was, now) in CELLS.items():
        sure_P = SIGNS[term] * cells_PSS[:, was, now]
        compatible = [(a, b) for a in (was, 2) for b in (now, 2) if (a, b) != (was, now)]
        open_P = SIGNS[term] * sum(cells_PSS[:, a, b] for a, b in compatible)
        below_P = 0.0 if was != now else np.minimum(open_P, 0)
        bounds[term] = (sure_P + below_P, sure_P + np.maximum(open_P, 0))
    return bounds


def term_intervals(
    terms: dict[str, dict[str, np.ndarray]],
    bounds: dict[str, tuple[np.ndarray, np.ndarray]],
    *,
    clusters: Clusters = None,
) -> dict[str, dict[str, Est]]:
    """weighting -> term -> its mean over prompts, with an interval that holds what the calls leave open."""
    lowest, highest = (
        dict(zip(bounds, mean_over_prompts(np.stack(ends, axis=1), clusters=clusters), strict=True))
        for ends in zip(*bounds.values(), strict=True)
    )
    weightings = {}
    for weighting, named in terms.items():
        means = mean_over_prompts(np.stack([*named.values()], axis=1), clusters=clusters)
        weightings[weighting] = {
            term: Est(est.estimate, min(est.low, lowest[term].low), max(est.high, highest[term].high))
            if term in bounds
            else est
            for term, est in zip(named, means, strict=True)
        }
    return weightings


def cross_fitted_cells(
    before: Counts, after: Counts, states: Callable[[Counts], np.ndarray], *, parts: tuple = (1.0, 1.0)
) -> np.ndarray:
    """[P, S, S] change of success of each prompt by (state before, state after), cross-fitted over all halvings.

    `states` gives the weights of the S states, [H, S] summing to 1, for H half samples. The states before and after are
    judged independently, so w_Z is a product and each expectation over halvings factors into one per checkpoint:

        E[w(A) e(B)] = E[w0(A)] E[w1(A) s1(B)] / n1  -  E[w0(A) s0(B)] E[w1(A)] / n0.

    parts (before, after), [P]: where membership is judged by one count and the change is of a part of it (responses of
    a class, and the right ones among them), which part that is. Given the class, who is right is exchangeable.
    """
    part0_P1, part1_P1 = (np.broadcast_to(part, len(before.scored))[:, None] for part in parts)
    cells_PSS = 0.0
    for smaller in (True, False):
        weight0_PS, product0_PS = _over_halvings(before, states, smaller=smaller)
        weight1_PS, product1_PS = _over_halvings(after, states, smaller=smaller)
        cells_PSS = cells_PSS + (
            weight0_PS[:, :, None] * (part1_P1 * product1_PS)[:, None, :]
            - (part0_P1 * product0_PS)[:, :, None] * weight1_PS[:, None, :]
        )
    return cells_PSS


def _call_states(half: Counts, k: int, *, zeta: float, alpha: float) -> np.ndarray:
    """[H, 3] 1 where a half is called IN, OUT or neither."""
    calls = support_calls(half, k, zeta=zeta, alpha=alpha)
    return np.stack([calls == state for state in (IN, OUT, UNDECIDED)], axis=1).astype(float)


def _over_halvings(counts: Counts, states, *, smaller: bool) -> tuple[np.ndarray, np.ndarray]:
    """E[w(A)] and E[w(A) s(B)] / n, both [P, S], when A is a uniformly drawn half of n samples and B the rest.

    The successes a in A are hypergeometric; s(B) = c - a. `smaller` says which half A is when n is odd.
    """
    distinct_U, where_P = np.unique(np.stack(counts, axis=1), axis=0, return_inverse=True)
    means = []
    for c, n in distinct_U.tolist():
        size = n // 2 if smaller else n - n // 2
        a_H, law_H = half_successes(c, n, size)
        weights_HS = states(Counts(a_H, np.full_like(a_H, size)))
        means.append((law_H @ weights_HS, (law_H * (c - a_H) / n) @ weights_HS))
    weight_US, product_US = (np.array(part) for part in zip(*means, strict=True))
    return weight_US[where_P.ravel()], product_US[where_P.ravel()]


def half_successes(c: int, n: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Possible successes in `size` of n samples of which c succeeded, and their hypergeometric probabilities."""
    a_H = np.arange(max(0, size - (n - c)), min(c, size) + 1)
    log_law_H = -sum(special.gammaln(x + 1) for x in (a_H, c - a_H, size - a_H, n - c - size + a_H))
    law_H = np.exp(log_law_H - log_law_H.max())
    return a_H, law_H / law_H.sum()


def _named_terms(cells_PSS: np.ndarray) -> dict[str, np.ndarray]:
    """Name the cells of (IN, OUT[, undecided]) x (IN, OUT[, undecided]); each term [P]."""
    signed = {term: cells_PSS[:, was, now] for term, (was, now) in CELLS.items()}
    if cells_PSS.shape[1] == 3:
        signed["ambiguous"] = cells_PSS[:, 2, :].sum(axis=1) + cells_PSS[:, :2, 2].sum(axis=1)
    return {term: SIGNS[term] * values_P for term, values_P in signed.items()}


def _what_cannot_be_certified(n_half, possible, k: int, *, zeta: float, alpha: float) -> str:
    """One sentence per checkpoint and call that its samples can never certify; empty if all are possible."""
    lost_terms = {
        ("before", OUT): "expansion and diffuse",
        ("after", OUT): "attrition and diffuse",
        ("before", IN): "reshaping and attrition",
        ("after", IN): "expansion and reshaping",
    }
    sentences = []
    for when, n, calls in zip(("before", "after"), n_half, possible, strict=True):
        if OUT not in calls:
            sentences.append(
                f"{n} samples per half {when} the stage cannot certify OUT at k = {k}, which takes "
                f"{samples_to_certify_out(k, zeta=zeta, alpha=alpha)}: certified {lost_terms[when, OUT]} are 0 by "
                f"design and their share is ambiguous; these samples suffice for "
                f"k <= {largest_certifiable_k(n, zeta=zeta, alpha=alpha)}."
            )
        if IN not in calls:
            sentences.append(
                f"{n} samples per half {when} the stage cannot certify IN at k = {k}: certified {lost_terms[when, IN]} "
                f"are 0 by design and their share is ambiguous; a larger k needs fewer samples for this."
            )
    return " ".join(sentences)
