"""Path tables and Shapley values sum to the whole change; lineage tells who brought what, and what is left of it."""

import itertools

import numpy as np
import pytest

from offon.behavior.counts import Counts
from offon.behavior.path import interaction, lineage, path_table, shapley, surviving_expansion
from offon.errors import DataError

N, K = 256, 32


def of(*rates):
    return Counts.of([round(rate * N) for rate in rates], N)


PATH = {"base": of(0, 0, 0.5), "sft": of(0.4, 0, 0.6), "rl": of(0.9, 0.5, 0.0)}


def test_the_path_table_sums_to_the_total_change():
    rows = path_table(PATH, k=K)
    total = sum(row["d1"]["total"]["estimate"] for row in rows)
    assert [row["stage"] for row in rows] == ["sft", "rl"]
    assert total == pytest.approx((PATH["rl"].rate - PATH["base"].rate).mean())


def test_lineage_and_what_survives():
    assert lineage(list(PATH.values()), K) == [["OUT", "IN", "solved"], ["OUT", "OUT", "IN"], ["IN", "IN", "OUT"]]
    sft, rl = surviving_expansion(list(PATH.values()), K)
    assert sft == pytest.approx(0.9 / 3, abs=0.01) and rl == pytest.approx(0.5 / 3, abs=0.01)


def test_shapley_hand_numbers():
    """rl works only after sft: v = 1 for both, .4 for sft alone, 0 for rl alone. phi_sft = (.4 + 1) / 2."""
    v = {(): 0.0, ("sft",): 0.4, ("rl",): 0.0, ("sft", "rl"): 1.0}
    assert shapley(["sft", "rl"], v.__getitem__) == pytest.approx({"sft": 0.7, "rl": 0.3})
    assert interaction(v.__getitem__, "sft", "rl") == pytest.approx(0.6)


def test_shapley_sums_to_the_total_and_equals_the_weighted_formula():
    rng, stages = np.random.default_rng(0), ["a", "b", "c", "d"]
    subsets = [s for size in range(5) for s in itertools.combinations(stages, size)]
    v = dict(zip(subsets, rng.normal(size=len(subsets)), strict=True))
    found = shapley(stages, v.__getitem__)
    assert sum(found.values()) == pytest.approx(v[tuple(stages)] - v[()])
    from math import factorial

    weights = [factorial(len(s)) * factorial(3 - len(s)) / 24 for s in subsets if "a" not in s]
    gains = [v[tuple(sorted((*s, "a")))] - v[s] for s in subsets if "a" not in s]
    assert found["a"] == pytest.approx(np.dot(weights, gains))


def test_precedence_is_kept():
    """A distillation needs its teacher: only the order (teacher, distil) is possible."""
    v = {(): 0.0, ("teacher",): 0.3, ("teacher", "distil"): 0.8}
    feasible = lambda subset: "distil" not in subset or "teacher" in subset  # noqa: E731
    assert shapley(["teacher", "distil"], v.__getitem__, feasible=feasible) == pytest.approx(
        {"teacher": 0.3, "distil": 0.5}
    )
    with pytest.raises(DataError, match="feasible"):
        shapley(["a"], v.__getitem__, feasible=lambda subset: False)
