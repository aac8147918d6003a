"""Path tables and Shapley values sum to the whole change; lineage tells who brought what, and what is left of it."""

import itertools

import numpy as np
import pytest

from offon.behavior.change.success_decomposition import SIGNS
from offon.behavior.stage.chain import (
    crossed_mean,
    interaction,
    lineage,
    lineage_summary,
    path_table,
    shapley,
    surviving_expansion,
)
from offon.behavior.statistics.counts import Counts
from offon.errors import DataError
from tests.rounding import FLOAT64

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


def test_a_lineage_counts_first_times_and_losses():
    """Prompts by checkpoint: OUT IN solved; OUT OUT IN; IN IN OUT. The third was within reach first, and is lost."""
    assert lineage_summary(PATH, K) == {
        "first_in": {"base": 1, "sft": 1, "rl": 1},
        "first_solved": {"base": 0, "sft": 0, "rl": 1},
        "lost_again": 1,
        "recovered": 0,
    }


def test_what_was_there_at_the_root_is_recovered_and_not_expanded():
    """Prompt 0: .6, lost to 0, back to .9. Prompt 1: never before, now .8. Prompt 2 stays. D1 of the second step alone
    calls both expanded: (.9 + .8) / 3. Along the path .9 / 3 of it is recovered."""
    path = {"base": of(0.6, 0, 0.5), "sft": of(0, 0, 0.5), "rl": of(0.9, 0.8, 0.5)}
    first, second = (row["d1"] for row in path_table(path, k=K))
    assert "recovered" not in first["soft"]
    for weighting in ("soft", "certified"):
        back, new = (second[weighting][name]["estimate"] for name in ("recovered", "expansion"))
        assert back == pytest.approx(0.9 / 3, abs=0.01) and new == pytest.approx(0.8 / 3, abs=0.01)
        rest = sum(SIGNS[name] * est["estimate"] for name, est in second[weighting].items() if name in SIGNS)
        assert back + rest == pytest.approx(second["total"]["estimate"])
    assert lineage_summary(path, K)["recovered"] == 1
    assert surviving_expansion(list(path.values()), K)[1] == pytest.approx(0.8 / 3, abs=0.01)


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


def test_values_of_prompts_are_shared_out_prompt_by_prompt():
    rng, subsets = np.random.default_rng(0), [(), ("sft",), ("rl",), ("sft", "rl")]
    v = {subset: rng.random((2, 5)) for subset in subsets}
    found = shapley(["sft", "rl"], v.__getitem__)
    one = shapley(["sft", "rl"], {subset: rows[1, 3] for subset, rows in v.items()}.__getitem__)
    assert found["sft"].shape == (2, 5) and found["sft"][1, 3] == pytest.approx(one["sft"])
    total = v["sft", "rl"] - v[()]
    assert np.abs(found["sft"] + found["rl"] - total).max() < FLOAT64


def test_the_interval_over_seeds_and_prompts():
    """Means over seeds 0, 2 of two prompts: variance 2 / 2 = 1; of two seeds 1, 1: none. t at 1 degree is 12.706."""
    found = crossed_mean(np.array([[0.0, 2.0], [0.0, 2.0]]))
    assert found.estimate == 1 and found.high - 1 == pytest.approx(12.706, abs=1e-3)
    assert crossed_mean(np.array([[0.0, 2.0]])) == pytest.approx(found)
    assert crossed_mean(np.array([[0.0, 1.0]])) == (0.5, 0, 1), "a share stays one"


def test_the_interval_over_seeds_and_prompts_covers_what_both_vary():
    """64 prompts, 4 seeds, effects of both and noise; the truth is 0. Of 400 at 95%, below 365 has probability .001."""
    rng = np.random.default_rng(0)
    draws = (rng.normal(0, 0.3, (1, 64)) + rng.normal(0, 0.1, (4, 1)) + rng.normal(0, 0.3, (4, 64)) for _ in range(400))
    assert sum(est.low <= 0 <= est.high for est in map(crossed_mean, draws)) >= 365


def test_precedence_is_kept():
    """A distillation needs its teacher: only the order (teacher, distil) is possible."""
    v = {(): 0.0, ("teacher",): 0.3, ("teacher", "distil"): 0.8}
    feasible = lambda subset: "distil" not in subset or "teacher" in subset  # noqa: E731
    assert shapley(["teacher", "distil"], v.__getitem__, feasible=feasible) == pytest.approx(
        {"teacher": 0.3, "distil": 0.5}
    )
    with pytest.raises(DataError, match="feasible"):
        shapley(["a"], v.__getitem__, feasible=lambda subset: False)
