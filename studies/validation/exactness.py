"""Exact instruments against brute force, sums, nulls."""

from __future__ import annotations

import itertools

import numpy as np
from scipy import stats
from tests.behavior.tabular import STOP, Table

from offon.behavior.change.enumeration import enumerate_support
from offon.behavior.change.prefix_tree import mass_by_cell, support
from offon.behavior.change.relative_support import TRAJECTORY_SIGNS, Scored, bits, decompose_trajectories
from offon.behavior.change.state_action import decompose_states, prefix_suffix, values
from offon.behavior.change.success_decomposition import SIGNS, prompt_terms
from offon.behavior.change.support import IN, OUT, prompt_changes, support_calls, support_threshold
from offon.behavior.stage.chain import path_table, shapley
from offon.behavior.statistics.counts import Counts
from offon.measure.compare import compare_models
from studies.validation.findings import Finding

SHAPES = ((3, 4), (4, 4), (5, 3), (6, 3))  # vocabulary, horizon
EPS = (0.3, 0.05, 0.01)


def worlds(n: int):
    """Pairs of policies over one vocabulary: before, after."""
    for seed, (vocabulary, horizon) in zip(range(n), itertools.cycle(SHAPES)):
        yield Table(2 * seed, vocabulary, horizon), Table(2 * seed + 1, vocabulary, horizon)


def right(response) -> bool:
    return sum(response) % 3 == 1


def enumeration(n: int) -> Finding:
    """Sets of edges, and the probability of what was cut, against every prefix there is."""
    wrong = cases = 0
    for pair in worlds(n):
        probability = {prefix: [policy.probability(prefix) for policy in pair] for prefix in pair[0].prefixes()}
        for eps in EPS:
            [found] = enumerate_support(pair, eps=eps, stop={STOP}, horizon=pair[0].horizon)
            inside = support(found.tree, eps)
            for policy in (0, 1):
                edges = {found.tree.path(edge) for edge in np.flatnonzero(inside[:, policy])}
                wrong += edges != {prefix for prefix, p in probability.items() if p[policy] >= eps}
                kept = found.tree.reach[found.tree.ends, policy].sum()
                wrong += abs(kept + found.residual[policy] - 1) > 1e-9
                cases += 1
    return Finding(what="enumerated support differs from brute force", value=wrong, of=f"{cases} cases")


def sums(n: int) -> Finding:
    """The largest error of any decomposition's sum."""
    rng, errors, cases = np.random.default_rng(0), [0.0], 0
    for pair in worlds(n):
        [found] = enumerate_support(pair, eps=0, stop={STOP}, horizon=pair[0].horizon)
        whole = found.tree
        reward = np.array([float(end and right(whole.path(edge))) for edge, end in enumerate(whole.ends)])
        success = [float(whole.reach[whole.ends, i] @ reward[whole.ends]) for i in (0, 1)]
        errors.append(sum(decompose_states(whole, reward, 0.05).values()) - (success[1] - success[0]))
        changes = [after - before for before, after in mass_by_cell(whole, 0.05, pair[0].horizon).values()]
        errors.append(sum(changes))
        errors.append(sum(np.exp(whole.log_p[:, 0]) * values(whole, reward, 0) * (whole.parent < 0)) - success[0])
        early, late = (sampled(pair, who, rng) for who in (0, 1))
        terms = decompose_trajectories(early, late, n=20.0)
        signed = sum(sign * terms[name].estimate for name, sign in TRAJECTORY_SIGNS.items())
        errors.append(signed - np.mean([b.success.mean() - a.success.mean() for a, b in zip(early, late, strict=True)]))
        if early[0].success.any() and late[0].success.any():
            found = bits(early[0].success.mean(), late[0])
            errors.append(found["selection"] + found["novelty"] - found["total"])
        hybrid = prefix_suffix(*rng.random((4, 30)))
        errors.append(hybrid.prefix.estimate + hybrid.suffix.estimate - hybrid.total.estimate)
        stages = [counts(rng, 40, 48) for _ in range(4)]
        for before, after in itertools.pairwise(stages):
            for part in prompt_terms(before, after, 16).values():
                signed = sum(SIGNS[name] * term for name, term in part.items())
                errors.append(np.abs(signed - (after.rate - before.rate)).max())
        path = path_table({str(i): stage for i, stage in enumerate(stages)}, k=16)
        total = sum(row["d1"]["total"]["estimate"] for row in path)
        errors.append(total - (stages[-1].rate - stages[0].rate).mean())
        worth = dict(zip(itertools.product((False, True), repeat=3), rng.random(8), strict=True))
        shares = shapley("abc", lambda subset: worth[tuple(stage in subset for stage in "abc")])  # noqa: B023
        errors.append(sum(shares.values()) - (worth[True, True, True] - worth[False, False, False]))
        cases += 1
    return Finding(
        what="largest error of a sum (D1 by prompt and trajectory, D2, D3, D4, mass, path, Shapley)",
        value=float(np.abs(errors).max()), relation="<=", bound=1e-9, of=f"{cases} worlds",
    )  # fmt: skip


def counts(rng, prompts: int, n: int) -> Counts:
    return Counts.of(rng.binomial(n, rng.beta(0.4, 0.8, prompts)), n)


def sampled(pair, who: int, rng, *, prompts: int = 3, n: int = 16) -> list[Scored]:
    found = []
    for _ in range(prompts):
        responses = [pair[who].sample(rng) for _ in range(n)]
        ratio = [pair[1].logp(y).sum() - pair[0].logp(y).sum() for y in responses]
        found.append(Scored(np.array(ratio), np.array([float(right(y)) for y in responses])))
    return found


def filter_invariance(n: int) -> Finding:
    """Policies tilted towards a reward: no prefix may become more than 1 / p0 times as likely."""
    worst, violations, cases = 0.0, 0, 0
    for before, _ in worlds(n):
        p0 = sum(before.probability(y) for y in before.responses() if right(y))
        for strength in (0.5, 2.0, 8.0, 40.0):
            pair = [before, before.tilted(right, strength)]
            [found] = enumerate_support(pair, eps=0, stop={STOP}, horizon=before.horizon)
            tree = found.tree
            ratio = float(np.exp(tree.log_reach[:, 1] - tree.log_reach[:, 0]).max()) * p0
            worst, cases = max(worst, ratio), cases + 1
            violations += ratio > 1 + 1e-9
    return Finding(
        what="filtered policies with a prefix beyond 1/p0", value=violations,
        of=f"{cases} tilts; largest ratio times p0: {worst:.6f}",
    )  # fmt: skip


def unchanged_checkpoint(prompts: int) -> Finding:
    """The testbed's base against itself, fresh samples: trajectory terms that are not exactly 0."""
    entry = compare_models("testbed:base", "testbed:base", {"testbed": ["rare", "format"]}, prompts=prompts, samples=32,
                           k=16, max_tokens=8, null=True)  # fmt: skip
    d1 = entry["trajectories"]["d1"]
    terms = [d1[name][end] for name in ("expansion", "attrition") for end in ("estimate", "low", "high")]
    return Finding(what="one checkpoint twice: trajectory expansion and attrition", value=float(np.abs(terms).max()),
                   of=f"{prompts} prompts x 32 samples of a transformer")  # fmt: skip


def false_expansion(prompts: int, k: int, *, n: int = 128) -> list[Finding]:
    """Certified `gained` on prompts that did not change: simulated at rates around eps, a fifth at eps itself, and the
    exact probability at the worst rate."""
    eps, rng = support_threshold(k), np.random.default_rng(k)
    p = np.where(rng.random(prompts) < 0.2, eps, eps * rng.uniform(0, 4, prompts))
    before, after = (Counts.of(rng.binomial(n, p), n) for _ in range(2))
    calls = prompt_changes(before, after, k)
    outcome = Counts.of(np.arange(n + 1), n)
    found = support_calls(outcome, k)

    def gained(rate: float) -> float:
        law = stats.binom.pmf(np.arange(n + 1), n, rate)
        return float(law[found == OUT].sum() * law[found == IN].sum())

    grid = np.append(np.linspace(eps / 20, 6 * eps, 600).clip(max=1), eps)
    worst = max(grid, key=gained)
    return [
        Finding(what=f"unchanged prompts certified as gained, k = {k}", value=calls.count("gained") / prompts,
                relation="<=", bound=0.01, of=f"{prompts:,} prompts, {n} samples each time"),
        Finding(what=f"its exact probability at the worst rate, k = {k}", value=gained(worst), relation="<=",
                bound=0.01, of=f"p = {worst / eps:.2f} eps; at p = eps {gained(eps):.1e}"),
    ]  # fmt: skip


def run(quick: bool) -> list[Finding]:
    n = 8 if quick else 96
    return [
        enumeration(n),
        sums(n // 4),
        filter_invariance(n // 2),
        unchanged_checkpoint(4 if quick else 40),
        *(finding for k in (32, 64) for finding in false_expansion(2_000 if quick else 200_000, k)),
    ]
