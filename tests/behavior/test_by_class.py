"""D1 by class: exact sums, a null of mean 0, and what a new route looks like at each grain."""

import dataclasses

import numpy as np
import pytest

from offon.behavior.change.by_class import (
    ClassCounts,
    class_calls,
    decompose_classes,
    distinct,
    largest_changes,
    surface_novelty,
)
from offon.behavior.change.relative_support import Scored, coverage_profile, decompose_trajectories
from offon.behavior.change.success_decomposition import SIGNS, decompose
from offon.behavior.statistics.counts import Counts
from tests.rounding import FLOAT64, FLOAT64_SUM

NAMES = np.array(["a", "b", "c", ""])


def drawn(rng, law, right, n=64):
    """n responses: a class from `law`, right with its class's probability."""
    chosen = rng.choice(len(law), n, p=law)
    return list(zip(NAMES[chosen].tolist(), (rng.random(n) < np.array(right)[chosen]).tolist(), strict=True))


def worlds(rng, prompts, law, right, n=64):
    return [drawn(rng, law, right, n) for _ in range(prompts)]


@pytest.mark.parametrize("seed", range(4))
def test_terms_sum_to_the_change_of_success(seed):
    rng = np.random.default_rng(seed)
    before, after = ([drawn(rng, rng.dirichlet(np.full(4, 0.3)), rng.random(4), int(rng.integers(2, 60)))
                      for _ in range(20)] for _ in range(2))  # fmt: skip
    found = decompose_classes(ClassCounts.of(before, after), k=8)
    change = np.mean([np.mean([r for _, r in b]) - np.mean([r for _, r in a]) for a, b in zip(before, after)])  # noqa: B905
    assert found["total"].estimate == pytest.approx(change, abs=FLOAT64)
    for part in ("certified", "soft"):
        assert sum(SIGNS[name] * est.estimate for name, est in found[part].items()) == pytest.approx(
            change, abs=FLOAT64_SUM
        )


def test_prompts_of_one_template_count_once_by_class_and_by_response():
    """Each of 12 prompts three times, as one cluster: the interval is that of the 12, and thrice as many independent
    prompts would have a narrower one."""
    rng = np.random.default_rng(3)
    before, after = ([drawn(rng, rng.dirichlet(np.full(4, 0.3)), rng.random(4)) for _ in range(12)] for _ in range(2))
    clusters = np.repeat(np.arange(12), 3)

    def three_times(rows):
        return [row for row in rows for _ in range(3)]

    plain = decompose_classes(ClassCounts.of(before, after), k=8)
    counts = ClassCounts.of(three_times(before), three_times(after), clusters=clusters)
    once = decompose_classes(counts, k=8)
    assert once["total"] == pytest.approx(plain["total"], abs=FLOAT64_SUM)
    for name, est in plain["soft"].items():
        assert once["soft"][name] == pytest.approx(est, abs=FLOAT64_SUM)
    alone = decompose_classes(dataclasses.replace(counts, clusters=None), k=8)["total"]
    assert alone.high - alone.low < 0.8 * (plain["total"].high - plain["total"].low)

    scored = [Scored(rng.normal(0, 3, 16), rng.random(16) < 0.5) for _ in range(24)]
    early, late = scored[:12], scored[12:]
    by_response = decompose_trajectories(three_times(early), three_times(late), n=4, clusters=clusters)
    for name, est in decompose_trajectories(early, late, n=4).items():
        assert by_response[name] == pytest.approx(est, abs=FLOAT64_SUM)
    covered = coverage_profile(three_times(late), 4, clusters=clusters)
    assert covered == pytest.approx(coverage_profile(late, 4), abs=FLOAT64_SUM)


@pytest.mark.slow
def test_identical_checkpoints_have_mean_0_in_every_term():
    """150 pairs of samples of one law, a class just at eps (.0894 at k = 32): each mean within 4 standard errors."""
    rng, rows = np.random.default_rng(0), []
    for _ in range(150):
        sides = (worlds(rng, 4, [0.0894, 0.3, 0.6106, 0.0], [0.9, 0.5, 0.0, 0.0]) for _ in range(2))
        soft = decompose_classes(ClassCounts.of(*sides), k=32)["soft"]
        rows.append([soft[name].estimate for name in ("expansion", "reshaping", "attrition", "diffuse")])
    means, errors = np.mean(rows, axis=0), np.std(rows, axis=0) / np.sqrt(len(rows))
    assert (np.abs(means) < 4 * errors + 1e-15).all() and (errors > 0).all()


def test_one_right_class_is_the_decomposition_by_prompt():
    """Where success is one class, cells of the class are cells of the prompt."""
    rng = np.random.default_rng(1)
    before, after = ([drawn(rng, [p, 1 - p, 0, 0], [1, 0, 0, 0]) for p in rng.random(12) ** 3] for _ in range(2))
    counts = [Counts.of([sum(r for _, r in row) for row in side], 64) for side in (before, after)]
    plain, classes = decompose(*counts, k=16), decompose_classes(ClassCounts.of(before, after), k=16)
    for part in ("certified", "soft"):
        for term, est in getattr(plain, part).items():
            assert classes[part][term].estimate == pytest.approx(est.estimate, abs=FLOAT64)


def test_a_new_route_to_an_old_answer_is_expansion_by_class_and_reshaping_by_prompt():
    """Success .3 by route a; after, .3 by a and .4 by b, which was never taken: prompts were within reach all along."""
    rng = np.random.default_rng(2)
    before = worlds(rng, 20, [0.3, 0.0, 0.7, 0.0], [1, 1, 0, 0], 128)
    after = worlds(rng, 20, [0.3, 0.4, 0.3, 0.0], [1, 1, 0, 0], 128)
    counts = ClassCounts.of(before, after)
    found = decompose_classes(counts, k=32)["certified"]
    assert found["expansion"].estimate == pytest.approx(0.4, abs=0.03) and abs(found["reshaping"].estimate) < 0.04
    assert class_calls(counts, 32) == {"gained": 20, "lost": 0, "kept": 40}
    sides = [Counts.of([sum(r for _, r in row) for row in side], 128) for side in (before, after)]
    by_prompt = decompose(*sides, k=32).certified
    assert abs(by_prompt["expansion"].estimate) < 1e-3 and by_prompt["reshaping"].estimate > 0.3
    top = largest_changes(counts, counts.name)
    assert {row["class"] for row in top[:2]} == {"b", "c"} and top[0]["change"]["low"] > 0.3 or top[0]["class"] == "c"


def test_new_wordings_of_an_old_answer_are_surface_and_of_a_new_answer_are_not():
    """After: half of the successes are worded anew (flagged new). On prompt 0 the class was there before, on 1 not."""
    before = [[("a", True)] * 40 + [("c", False)] * 60, [("c", False)] * 100]
    after = [[("a", True)] * 50 + [("c", False)] * 50] * 2
    new = [[i % 2 == 0 for i in range(100)]] * 2
    assert surface_novelty(ClassCounts.of(before, after), after, new, 32).estimate == pytest.approx((0.25 + 0.0) / 2)


def test_classes_seen_and_unseen():
    """f1 = 3 classes once, f2 = 1 twice: 3 * 2 / (2 * 2) = 1.5 unseen; seen 5."""
    row = [("v", True), ("w", True), ("x", False), ("y", False), ("y", False), *[("z", True)] * 5]
    found = distinct(ClassCounts.of([row], [row]))
    assert found["before"]["seen"].estimate == 5 and found["before"]["unseen_heuristic"].estimate == 1.5
