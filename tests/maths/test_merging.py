"""Merging by hand on small tensors, and the limits that turn one merge into another."""

from __future__ import annotations

import pytest
import torch

from offon.errors import ModelError
from offon.maths.merging import dare, linear, slerp, task_arithmetic, ties
from tests.rounding import FLOAT32, STORED


def models(n: int, *, seed: int = 0) -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    return [{"w": torch.randn(5, 7, generator=generator), "b": torch.randn(11, generator=generator)} for _ in range(n)]


def same(a, b, tolerance=STORED) -> bool:
    return set(a) == set(b) and all(torch.allclose(a[name], b[name], atol=tolerance, rtol=0) for name in a)


def test_a_soup_is_the_weighted_mean():
    """(3 * 1 + 1 * 5) / 4 = 2; equal weights: 3."""
    a, b = {"w": torch.tensor([1.0])}, {"w": torch.tensor([5.0])}
    assert linear([a, b], [3, 1])["w"].item() == 2 and linear([a, b])["w"].item() == 3


def test_one_model_merges_to_itself():
    base, model = models(2)
    assert same(linear([model]), model) and same(slerp(model, model, 0.3), model)
    assert same(task_arithmetic(base, [model], 1.0), model)
    assert same(ties(base, [model], 1.0, 1.0), model) and same(dare(base, [model], 0.0, 1.0, 0), model)


def test_task_arithmetic_with_scale_one_over_n_is_the_soup():
    base, *tuned = models(4)
    assert same(task_arithmetic(base, tuned, 1 / 3), linear(tuned))
    assert same(task_arithmetic(base, tuned, 0.0), base)


def test_slerp_has_the_models_as_its_ends_and_a_right_angle_as_its_middle():
    """Between (1, 0) and (0, 2) the angle is 90 degrees: at t = 1/2 sin(45) / sin(90) = 0.7071 of each."""
    a, b = models(2)
    assert same(slerp(a, b, 0.0), a) and same(slerp(a, b, 1.0), b)
    middle = slerp({"w": torch.tensor([1.0, 0.0])}, {"w": torch.tensor([0.0, 2.0])}, 0.5)["w"]
    assert middle.tolist() == pytest.approx([0.5**0.5, 2**0.5], rel=STORED)


def test_slerp_of_equally_long_tensors_keeps_their_length_and_of_parallel_ones_is_linear():
    a, b = models(2)
    b = {name: value * a[name].norm() / value.norm() for name, value in b.items()}
    assert slerp(a, b, 0.3)["w"].norm() == pytest.approx(a["w"].norm().item(), rel=FLOAT32)
    double = {name: 2 * value for name, value in a.items()}
    assert same(slerp(a, double, 0.5), {name: 1.5 * value for name, value in a.items()})
    assert same(slerp({"w": torch.zeros(3)}, {"w": torch.ones(3)}, 0.25), {"w": torch.full((3,), 0.25)})


def test_ties_by_hand():
    """Density 0.5 of 4 entries keeps the 2 largest: tau_1 = (4, -3, 0, 0), tau_2 = (-1 trimmed, 5, 0, 2).

    Sums (4, 2, 0, 2) elect (+, +, none, +). Agreeing means: 4 from the first; 5 from the second; nothing; 2.
    """
    base = {"w": torch.zeros(4)}
    first, second = {"w": torch.tensor([4.0, -3.0, 1.0, 2.0])}, {"w": torch.tensor([-1.0, 5.0, 0.5, 2.0])}
    assert ties(base, [first, second], 0.5, 1.0)["w"].tolist() == [4.0, 5.0, 0.0, 2.0]
    assert ties(base, [first, second], 0.5, 0.5)["w"].tolist() == [2.0, 2.5, 0.0, 1.0]


def test_ties_trims_the_task_vector_of_the_whole_model_not_tensor_by_tensor():
    """Two of six entries, 5 and -4, lie in one tensor: the other keeps nothing, though 1 is the largest there. Tensor
    by tensor (0.33 of 3 each) it would be (5, 0, 0) and (1, 0, 0)."""
    base = {"a": torch.zeros(3), "b": torch.ones(3)}
    tuned = {"a": torch.tensor([5.0, -4.0, 2.0]), "b": torch.tensor([2.0, 1.5, 1.0])}
    merged = ties(base, [tuned], 1 / 3, 1.0)
    assert merged["a"].tolist() == [5.0, -4.0, 0.0] and merged["b"].tolist() == [1.0, 1.0, 1.0]


def test_ties_equals_the_papers_three_steps_on_flat_vectors():
    """Yadav et al. 2023, algorithm 1, entry by entry in plain Python on the concatenated parameters."""
    base, *tuned = models(4)
    flat = [[float(x) for tensor in model.values() for x in tensor.flatten()] for model in (base, *tuned)]
    vectors = [[x - o for x, o in zip(model, flat[0], strict=True)] for model in flat[1:]]
    kept = round(0.3 * len(flat[0]))
    for vector in vectors:
        least = sorted(map(abs, vector))[-kept]
        vector[:] = [x if abs(x) >= least else 0.0 for x in vector]
    expected = []
    for origin, *column in zip(flat[0], *vectors, strict=True):
        agreeing = [x for x in column if x * sum(column) > 0]
        expected.append(origin + 0.7 * (sum(agreeing) / len(agreeing) if agreeing else 0.0))
    merged = ties(base, tuned, 0.3, 0.7)
    assert torch.cat([t.flatten() for t in merged.values()]).tolist() == pytest.approx(expected, abs=1e-6)


def test_ties_of_whole_task_vectors_with_equal_signs_is_the_mean():
    base, *tuned = models(4)
    tuned = [{name: base[name] + (value - base[name]).abs() for name, value in m.items()} for m in tuned]
    assert same(ties(base, tuned, 1.0, 1.0), linear(tuned))


def test_opposite_task_vectors_elect_nothing_and_change_nothing():
    (model,) = models(1)
    base, mirrored = ({name: factor * value for name, value in model.items()} for factor in (0.0, -1.0))
    assert same(ties(base, [model, mirrored], 1.0, 1.0), base)


def test_dare_keeps_the_task_vector_on_average_and_realised_keeps_its_size():
    """E[m / (1 - p)] = 1: the mean over 4000 masks is within 5 standard errors, sqrt(p / (1 - p) / 4000) = 0.025."""
    base, model = {"w": torch.zeros(3)}, {"w": torch.tensor([1.0, -2.0, 3.0])}
    mean = sum(dare(base, [model], 0.7, 1.0, seed)["w"] for seed in range(4000)) / 4000
    assert torch.allclose(mean, model["w"], rtol=0.125)
    for seed in range(20):
        thinned, kept = (dare(base, [model], 0.3, 1.0, seed, how)["w"] for how in ("realised", "expected"))
        assert thinned.abs().sum() == pytest.approx(6.0 if kept.any() else 0.0)  # 0 where every entry was dropped
        assert torch.equal(kept == 0, thinned == 0) and (not kept.any() or not torch.allclose(kept, thinned))


def test_dare_without_dropping_is_task_arithmetic_and_its_masks_are_the_seeds():
    base, *tuned = models(3)
    assert same(dare(base, tuned, 0.0, 0.4, 0), task_arithmetic(base, tuned, 0.4))
    assert same(dare(base, tuned, 0.0, 0.4, 0, "realised"), task_arithmetic(base, tuned, 0.4))
    assert same(dare(base, tuned, 0.9, 1.0, 5), dare(base, tuned, 0.9, 1.0, 5))
    assert not same(dare(base, tuned, 0.9, 1.0, 5), dare(base, tuned, 0.9, 1.0, 6))


def test_models_of_other_shape_are_refused_with_the_parameter_that_differs():
    a, b = models(2)
    with pytest.raises(ModelError, match=r"b among them: \(11,\) and \(3,\)"):
        linear([a, {**b, "b": torch.zeros(3)}])
    with pytest.raises(ModelError, match=r"head among them: missing and \(2,\)"):
        task_arithmetic(a, [{**b, "head": torch.zeros(2)}], 1.0)
    with pytest.raises(ModelError, match="one weight a model"):
        linear([a, b], [1.0])
