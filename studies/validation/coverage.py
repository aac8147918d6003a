"""How often a 95% interval holds the truth: prompts drawn anew each time, the truth from 200,000 of them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from offon.behavior.counts import Counts
from offon.behavior.decompose import prompt_terms
from offon.behavior.intervals import Est, mean_over_prompts, signed_mean
from offon.behavior.passk import pass_at_k
from offon.behavior.retention import ratio, split_product
from studies.validation.findings import Finding

LOW, HIGH = 0.93, 0.98
K = 32
TRUTH = 200_000
Rates = Callable[[int, np.random.Generator], tuple[np.ndarray, np.ndarray]]


def _same(p):
    return p, p


def _changed(n: int, rng) -> tuple[np.ndarray, np.ndarray]:
    """30% out of reach, the rest anywhere; 22% gain .3, 10% are lost."""
    before = np.where(rng.random(n) < 0.3, 0.002, rng.beta(0.5, 1, n))
    after = np.where(rng.random(n) < 0.25, np.minimum(before + 0.3, 1), before)
    return before, np.where(rng.random(n) < 0.1, 0.001, after)


POPULATIONS: dict[str, Rates] = {
    "null, rates up to .3": lambda n, rng: _same(rng.uniform(0, 0.3, n)),
    "null, 40% at 0, Beta(.3, 1)": lambda n, rng: _same(np.where(rng.random(n) < 0.4, 0, rng.beta(0.3, 1, n))),
    "null, 80% at .001": lambda n, rng: _same(np.where(rng.random(n) < 0.8, 0.001, rng.beta(0.5, 2, n))),
    "changed": _changed,
}


def per_prompt(rates: Rates, prompts: int, n: int, rng) -> dict[str, np.ndarray]:
    """Everything whose mean over prompts is reported, [P] each."""
    p0, p1 = rates(prompts, rng)
    before, after = Counts.of(rng.binomial(n, p0), n), Counts.of(rng.binomial(n, p1), n)
    terms = prompt_terms(before, after, K)
    _, change = split_product_fast(before, after)
    return {
        "success": before.rate,
        "pass@8": pass_at_k(before, 8),
        "pass@32": pass_at_k(before, 32),
        "change": after.rate - before.rate,
        "lost": -change,
        **{f"{form} {name}": values for form, part in terms.items() for name, values in part.items()},
    }


def split_product_fast(before: Counts, after: Counts):
    """`split_product` for attrition, each distinct pair of counts once."""
    pairs = np.stack([before.successes, after.successes], axis=1)
    distinct, where = np.unique(pairs, axis=0, return_inverse=True)
    n0, n1 = int(before.scored[0]), int(after.scored[0])
    weight, product = split_product(
        Counts.of(distinct[:, 0], n0), Counts.of(distinct[:, 1], n1), lambda a, b: (b.rate < a.rate).astype(float)
    )
    return weight[where.ravel()], product[where.ravel()]


def covered(est: Est, truth: float, slack: float) -> bool:
    return est.low - slack <= truth <= est.high + slack


def coverage(rates: Rates, prompts: int, repeats: int, *, n: int, seed: int = 0) -> dict[str, float]:
    """Share of repeats whose interval holds the truth. Less than half an outcome among all samples is no miss."""
    rng, slack = np.random.default_rng(seed), 0.5 / (prompts * n)
    whole = per_prompt(rates, TRUTH, n, rng)
    truth = {name: float(values.mean()) for name, values in whole.items()}
    drawn = per_prompt(rates, prompts * repeats, n, rng)
    plain = ("success", "pass@8", "pass@32", "change")
    terms = [name for name in drawn if name not in (*plain, "lost")]
    hits = dict.fromkeys((*plain, "retention", *terms), 0)
    for repeat in range(repeats):
        part = {name: values[repeat * prompts : (repeat + 1) * prompts] for name, values in drawn.items()}
        found = dict(zip(plain, mean_over_prompts(np.stack([part[name] for name in plain], axis=1)), strict=True))
        found |= dict(zip(terms, signed_mean(np.stack([part[name] for name in terms], axis=1)), strict=True))
        for name, est in found.items():
            hits[name] += covered(est, truth[name], slack)
        lost = ratio(part["lost"], part["success"])
        hits["retention"] += covered(lost, truth["lost"] / truth["success"], slack)
    return {name: number / repeats for name, number in hits.items()}


def run(quick: bool) -> list[Finding]:
    repeats = 60 if quick else 1000
    found = []
    for name, rates in POPULATIONS.items():
        for prompts in (64, 200):
            for what, share in coverage(rates, prompts, repeats, n=128).items():
                found.append(
                    Finding(what=f"{what}; {name}; {prompts} prompts", value=share, relation=">=", bound=LOW,
                            high=HIGH, of=f"{repeats} repeats x 128 samples")
                )  # fmt: skip
    return found
