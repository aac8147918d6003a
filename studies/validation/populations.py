"""Populations of prompts with known rates, and what is measured on prompts drawn from them.

Axes: P prompts; n samples of each; C classes of right responses of one prompt.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
from scipy import stats

from offon.behavior.change.success_decomposition import CELLS, SIGNS, prompt_bounds, prompt_terms
from offon.behavior.change.support import support_threshold
from offon.behavior.stage.retention import split_product
from offon.behavior.statistics.counts import Counts
from offon.behavior.statistics.intervals import clopper_pearson_lower, clopper_pearson_upper
from offon.behavior.statistics.pass_at_k import mixed_group_probability, pass_at_k

Rates = Callable[[int, np.random.Generator], tuple[np.ndarray, np.ndarray, np.ndarray]]  # start, one stage, the next
CLASSES = 3
MIXED = 20_000  # prompts whose mixture is computed; enough for a mean
SIDES = ("lowest", "highest")  # of what the calls leave open
GROUP_SIZE = 8


def budget(n: int) -> int:
    """The budget that n samples can certify in halves: 32 at 128."""
    return n // 4


def _same(p: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return p, p, p


def _changed(n: int, rng):
    """30% out of reach, the rest anywhere; 22% gain .3, 10% are lost, the next stage undoes 30%."""
    start = np.where(rng.random(n) < 0.3, 0.002, rng.beta(0.5, 1, n))
    then = np.where(rng.random(n) < 0.25, np.minimum(start + 0.3, 1), start)
    then = np.where(rng.random(n) < 0.1, 0.001, then)
    return start, then, np.where(rng.random(n) < 0.3, start, then)


def _few(n: int, rng):
    """One prompt in 20 gains nearly everything, one in 20 loses it, nothing else moves."""
    start, gains = rng.uniform(0.1, 0.5, n), rng.random(n) < 0.06
    start = np.where(gains, 0.002, start)
    then = np.where(gains & (rng.random(n) < 0.8), 0.8, start)
    then = np.where(rng.random(n) < 0.05, 0.001, then)
    return start, then, np.where(rng.random(n) < 0.2, start, then)


def _ties(n: int, rng):
    """Rates 0, 1/4, 1/2 and 1 only."""
    start, u = rng.choice([0, 0.25, 0.5, 1.0], n, p=[0.4, 0.2, 0.2, 0.2]), rng.random(n)
    then = np.where((start == 0) & (u < 0.3), 0.5, start)
    then = np.where((start == 0.5) & (u < 0.2), 0, then)
    return start, then, np.where(rng.random(n) < 0.5, start, then)


def _lifted(n: int, rng):
    """Every prompt a little better, then a little worse."""
    start = rng.beta(1, 2, n)
    then = start + 0.15 * (1 - start)
    return start, then, 0.95 * then


def _losing(n: int, rng):
    """30% lost, a fifth gained."""
    gains, start = rng.random(n) < 0.2, rng.beta(2, 1, n)
    start = np.where(gains, 0.001, start)
    then = np.where(gains, 0.6, np.where(rng.random(n) < 0.3, 0.001, start))
    return start, then, np.where(rng.random(n) < 0.4, start, then)


def _nearly_solved(n: int, rng):
    """Most solved; of 15% that are not, most are gained; 4% nearly lost."""
    open_, start = rng.random(n) < 0.15, rng.beta(8, 1, n)
    start = np.where(open_, 0.01, start)
    then = np.where(open_ & (rng.random(n) < 0.7), 0.95, start)
    then = np.where(rng.random(n) < 0.04, 0.1, then)
    return start, then, np.where(rng.random(n) < 0.15, start, then)


# the interval's one constant was chosen on these, ...
CHOSEN: dict[str, Rates] = {
    "null, rates up to .3": lambda n, rng: _same(rng.uniform(0, 0.3, n)),
    "null, 40% at 0, Beta(.3, 1)": lambda n, rng: _same(np.where(rng.random(n) < 0.4, 0, rng.beta(0.3, 1, n))),
    "null, 80% at .001": lambda n, rng: _same(np.where(rng.random(n) < 0.8, 0.001, rng.beta(0.5, 2, n))),
    "changed": _changed,
    "few carry everything": _few,
}
# ... and tried on these
HELD_OUT: dict[str, Rates] = {
    "null, four rates": lambda n, rng: _same(rng.choice([0, 0.1, 0.5, 1.0], n, p=[0.5, 0.2, 0.2, 0.1])),
    "null, nearly solved": lambda n, rng: _same(rng.beta(4, 1, n)),
    "ties": _ties,
    "all a little better": _lifted,
    "losing": _losing,
    "nearly solved": _nearly_solved,
}


@cache
def _single(n: int) -> dict[str, np.ndarray]:
    """What one count gives, [n + 1] by successes."""
    counts, k = Counts.of(np.arange(n + 1), n), budget(n)
    passes = {f"pass@{size}": pass_at_k(counts, size) for size in (8, k)}
    return {"success": counts.rate, **passes, "mixed groups": mixed_group_probability(counts, GROUP_SIZE)}


@cache
def _pairs(n: int) -> dict[str, np.ndarray]:
    """What two counts of one prompt give, [n + 1, n + 1] by successes before and after."""
    first, second = (grid.ravel() for grid in np.meshgrid(np.arange(n + 1), np.arange(n + 1), indexing="ij"))
    before, after = Counts.of(first, n), Counts.of(second, n)

    def certain(a: Counts, b: Counts) -> np.ndarray:
        return (clopper_pearson_lower(*b, alpha=0.025) > clopper_pearson_upper(*a, alpha=0.025)).astype(float)

    _, lost_before, lost_after = split_product(before, after, lambda a, b: (b.rate < a.rate).astype(float))
    weight, gain_before, gain_after = split_product(before, after, certain)
    found = {
        f"{form} {name}": values
        for form, part in prompt_terms(before, after, budget(n)).items()
        for name, values in part.items()
    }
    for name, ends in prompt_bounds(before, after, budget(n)).items():
        found |= {f"{side} {name}": end for side, end in zip(SIDES, ends, strict=True)}
    found |= {"lost": lost_before - lost_after, "gain weight": weight}
    found |= {"gain before": gain_before, "gain": gain_after - gain_before}
    return {name: values.reshape(n + 1, n + 1) for name, values in found.items()}


def measured(rates: Rates, prompts: int, n: int, rng) -> dict[str, np.ndarray]:
    """Everything whose mean or ratio over prompts is reported, [prompts] each; tops and bottoms of `RATIOS` too."""
    truth = rates(prompts, rng)
    before, after, later = (rng.binomial(n, p) for p in truth)
    single, pairs = _single(n), {name: table[before, after] for name, table in _pairs(n).items()}
    found = {name: table[before] for name, table in single.items()}
    found |= {f"change of {name}": table[after] - table[before] for name, table in single.items()}
    found |= {"gain kept": pairs.pop("gain weight") * later / n - pairs.pop("gain before"), **pairs}
    return found | _by_class(truth, n, rng) | _by_trajectory(truth, n, rng)


RATIOS = {"retention, attrition": ("lost", "success"), "gain retention": ("gain kept", "gain")}


def _class_rates(truth, rng) -> tuple[np.ndarray, np.ndarray]:
    """[prompts, C] rates of right classes before and after: shares of success by Dirichlet, gains in one class, losses
    in all."""
    p0, p1, _ = truth
    prompts = len(p0)
    before_PC = p0[:, None] * rng.dirichlet(np.full(CLASSES, 0.5), prompts)
    lost_PC = before_PC * np.minimum(p1 / np.maximum(p0, 1e-12), 1)[:, None]
    gained_PC = np.eye(CLASSES)[rng.integers(CLASSES, size=prompts)] * np.maximum(p1 - p0, 0)[:, None]
    return before_PC, lost_PC + gained_PC


def _by_class(truth, n: int, rng) -> dict[str, np.ndarray]:
    """D1 by class of right responses."""
    first, second = (_classes(rates, n, rng) for rates in _class_rates(truth, rng))
    starts = ("certified", "soft", *SIDES)
    terms = {name: table for name, table in _pairs(n).items() if name.startswith(starts)}
    return {f"class {name}": table[first, second].sum(axis=1) for name, table in terms.items()}


def _classes(rates_PC: np.ndarray, n: int, rng) -> np.ndarray:
    whole = np.concatenate([rates_PC, np.maximum(1 - rates_PC.sum(axis=1, keepdims=True), 0)], axis=1)
    return rng.multinomial(n, whole / whole.sum(axis=1, keepdims=True))[:, :-1]


def _trajectory_rates(truth, n: int, rng) -> tuple[np.ndarray, np.ndarray]:
    """[prompts, 3] rates of new, lost and shared trajectories before and after: half of the prompts change by new or
    lost ones, half by shared ones."""
    p0, p1, _ = truth
    factor, new = 1 / support_threshold(budget(n)), rng.random(len(p0)) < 0.5
    gained, lost = np.where(new, np.maximum(p1 - p0, 0), 0), np.where(new, np.maximum(p0 - p1, 0), 0)
    before = np.stack([gained / (2 * factor), lost, np.maximum(p0 - lost - gained / (2 * factor), 0)], axis=1)
    after = np.stack([gained, lost / (2 * factor), np.maximum(p1 - gained - lost / (2 * factor), 0)], axis=1)
    return before, after


def _by_trajectory(truth, n: int, rng) -> dict[str, np.ndarray]:
    before, after = _trajectory_rates(truth, n, rng)
    return _trajectory_terms((_classes(after, n, rng) - _classes(before, n, rng)) / n)


def _trajectory_terms(change_P3: np.ndarray) -> dict[str, np.ndarray]:
    return {
        "trajectory expansion": change_P3[:, 0],
        "trajectory attrition": -change_P3[:, 1],
        "trajectory reshaping": change_P3[:, 2],
    }


def exact(rates: Rates, prompts: int, n: int, rng) -> dict[str, np.ndarray]:
    """What `measured` estimates, from the rates themselves, [prompts] each: cells by which side of eps a rate is on,
    not by what samples say of it. Nothing here is estimated; whatever bias an estimator has shows as misses.

    Gain retention has no such truth: it is defined on the prompts whose gain samples make certain. There, the mean over
    all samples, a binomial mixture in closed form.
    """
    truth = p0, p1, p2 = rates(prompts, rng)

    def single(p: np.ndarray) -> dict[str, np.ndarray]:
        passes = {f"pass@{size}": 1 - (1 - p) ** size for size in (8, budget(n))}
        return {"success": p, **passes, "mixed groups": 1 - p**GROUP_SIZE - (1 - p) ** GROUP_SIZE}

    first, second = single(p0), single(p1)
    found = first | {f"change of {name}": second[name] - value for name, value in first.items()}
    eps = support_threshold(budget(n))
    found |= {f"{form} {term}": value for term, value in _cells(p0, p1, eps).items() for form in ("certified", "soft")}
    by_class = [_cells(*pair, eps) for pair in zip(*(side.T for side in _class_rates(truth, rng)), strict=True)]
    for term in CELLS:
        whole = sum(cells[term] for cells in by_class)
        found |= {f"class {form} {term}": whole for form in ("certified", "soft")}
    before, after = _trajectory_rates(truth, n, rng)
    found |= {"lost": np.maximum(p0 - p1, 0), **_gain_kept(p0, p1, p2, n)}
    return found | _trajectory_terms(after - before)


def _cells(p0: np.ndarray, p1: np.ndarray, eps: float) -> dict[str, np.ndarray]:
    """Each term of each prompt: its change where it lies in the term's cell."""
    states = (p0 < eps).astype(int), (p1 < eps).astype(int)
    return {
        term: SIGNS[term] * np.where((states[0] == was) & (states[1] == now), p1 - p0, 0.0)
        for term, (was, now) in CELLS.items()
    }


def _gain_kept(p0: np.ndarray, p1: np.ndarray, p2: np.ndarray, n: int, *, size: int = 2000) -> dict[str, np.ndarray]:
    """Top and bottom of gain retention: means of the tables over both binomials, of the first prompts, which stand for
    all."""
    some = min(MIXED, len(p0))
    parts = []
    for at in range(0, some, size):
        before, after = (stats.binom.pmf(np.arange(n + 1), n, p[at : min(at + size, some), None]) for p in (p0, p1))
        names = ("gain weight", "gain before", "gain")
        parts.append([((before @ _pairs(n)[name]) * after).sum(axis=1) for name in names])
    weight, gain_before, gain = np.concatenate(parts, axis=1)
    return {"gain": gain, "gain kept": weight * p2[:some] - gain_before}
