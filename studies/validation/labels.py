"""What is decided at an interval's end or by a label, and how often wrongly: roles, and limits at the truth."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from offon.behavior.stage.role import stage_role
from offon.behavior.statistics.counts import Counts
from studies.validation.findings import Finding
from studies.validation.populations import CHOSEN, HELD_OUT, Rates, budget

NAMES = ("expansion", "reshaping", "mixed", "no change")
SAMPLES = 128


def _expanded(n: int, rng):
    """A quarter comes into reach, nothing else moves."""
    start, gains = rng.uniform(0.1, 0.6, n), rng.random(n) < 0.4
    start = np.where(gains, 0.002, start)
    then = np.where(gains & (rng.random(n) < 0.6), 0.5, start)
    return start, then, then


def _reshaped(n: int, rng):
    """What was within reach rises by .15, what was out of reach stays there."""
    start = np.where(rng.random(n) < 0.4, 0.002, rng.uniform(0.2, 0.6, n))
    then = np.where(start > 0.1, start + 0.15, start)
    return start, then, then


def _at_the_edge(n: int, rng):
    """Rises from just within reach (.1 to .2) by .15: still reshaping."""
    start = np.where(rng.random(n) < 0.4, 0.002, rng.uniform(0.1, 0.2, n))
    then = np.where(start > 0.05, start + 0.15, start)
    return start, then, then


def _both(n: int, rng):
    """Expansion and reshaping of the same size: neither should be sure."""
    start, u = np.where(rng.random(n) < 0.4, 0.002, rng.uniform(0.2, 0.6, n)), rng.random(n)
    then = np.where(start < 0.1, np.where(u < 0.25, 0.5, start), start + 0.083)
    return start, then, then


def _lost(n: int, rng):
    """A tenth is lost, nothing is gained."""
    start = rng.uniform(0.1, 0.6, n)
    then = np.where(rng.random(n) < 0.1, 0.001, start)
    return start, then, then


NULLS = {name: rates for name, rates in {**CHOSEN, **HELD_OUT}.items() if name.startswith("null")}


def shares(rates: Rates, prompts: int, repeats: int, *, seed: int = 0) -> dict[str, float]:
    """How often each role is called."""
    rng, called = np.random.default_rng(seed), []
    for _ in range(repeats):
        start, then, _ = rates(prompts, rng)
        counts = (Counts.of(rng.binomial(SAMPLES, p), SAMPLES) for p in (start, then))
        called.append(stage_role(*counts, budget(SAMPLES)).name)
    return {name: called.count(name) / repeats for name in NAMES}


def roles(repeats: int, sizes: Sequence[int] = (64, 200)) -> list[Finding]:
    """How often a label is wrong: of unchanged populations the mean, of others the worst of populations and sizes."""
    rows = []
    wrong = {
        "unchanged": (NULLS, "no change", ">=", 0.95),
        "reshaping": ({"reshaped": _reshaped, "at the edge": _at_the_edge}, "expansion", "<=", 0.05),
        "expansion": ({"expanded": _expanded}, "reshaping", "<=", 0.05),
        "both alike": ({"both": _both}, "expansion", "<=", 0.1),
        "loss only": ({"lost": _lost}, "expansion", "<=", 0.05),
    }
    for truth, (populations, label, relation, bound) in wrong.items():
        found = [shares(rates, prompts, repeats) for rates in populations.values() for prompts in sizes]
        chances = [each[label] for each in found]
        value = float(np.mean(chances)) if relation == ">=" else max(chances)
        means = ", ".join(f"{name} {np.mean([each[name] for each in found]):.3f}" for name in NAMES)
        of = (
            f"{min(chances):.3f} to {max(chances):.3f}; {len(populations)} populations x "
            f"{' and '.join(map(str, sizes))} prompts x {repeats}; all: {means}"
        )
        what = f"role: called {label}, truly {truth}"
        rows.append(Finding(what=what, value=value, relation=relation, bound=bound, of=of))
    return rows


# metric: its quantity, and whether a minimum is judged on the low end of it (else on the high end)
LIMITS = {
    "success": ("success", True),
    "change of success": ("change of success", True),
    "fall of pass@32": ("change of pass@32", True),
    "retention": ("retention, attrition", False),
    "gain retention": ("gain retention", True),
}


def limits(cells) -> list[Finding]:
    """A limit set exactly at the truth: how often the careful end of the interval passes it, and how often the whole
    interval lies on the wrong side of it. About .025 each."""
    rows = []
    for metric, (what, low) in LIMITS.items():
        of_it = [cell for cell in cells if cell.what == what and cell.kind == "others"]
        if not of_it:
            continue
        passes, stops = ([getattr(cell, name) for cell in of_it] for name in ("low_passes", "high_passes"))
        for title, errors in (("passed", passes if low else stops), ("certainly missed", stops if low else passes)):
            spread = f"{min(errors):.3f} to {max(errors):.3f}, mean {np.mean(errors):.3f}, {len(errors)} cells"
            what = f"limit at the truth {title}: {metric}"
            rows.append(Finding(what=what, value=max(errors), relation="<=", bound=0.05, of=spread))
    return rows
