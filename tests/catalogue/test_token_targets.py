"""Supervised rows: what they become at their limits."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch

from offon.catalogue import registry
from offon.parts import SELF, Need
from offon.parts.terms import PROXIMAL
from offon.train.scoring import prepare, score, score_buffer, step_loss, weigh
from offon.types import Group, Item, Source, Trajectory
from offon.types.batch import Batch
from tests.catalogue.test_contract import difference, gradient
from tests.rounding import FLOAT32, FLOAT32_SUM, STORED, close
from tests.support import World, demonstrations, model

started = functools.cache(lambda: World(model(0), {"start": model(0)}))
moved = functools.cache(lambda: World(model(0), {"start": model(3)}))


def learner(name: str, **arguments):
    (found,) = registry.get(name).function(data=demonstrations(), **arguments).learners
    return found


def of(name: str, world=None, groups=None, **arguments) -> dict[str, torch.Tensor]:
    return gradient(learner(name, **arguments), groups or demonstrations(), world or moved())


def with_proximal(world) -> list[Group]:
    return score_buffer(world.learner, demonstrations(), PROXIMAL, 1000)


def test_dft_is_the_probability_objective_with_a_of_1():
    assert difference(of("dft"), of("probability_family", a=1.0)) < FLOAT32
    assert difference(of("sft"), of("probability_family", a=0.0)) < FLOAT32
    assert difference(of("sft"), of("probability_family", a=1e-6)) < 1e-4


def test_the_gradient_of_dft_is_that_of_one_minus_p():
    """Written without a detached weight: the mean over tokens of -p."""
    world, batch = moved(), Batch.of(demonstrations())
    world.learner.hf.zero_grad()
    logp = score(world, batch, [Need("logp", SELF)])[Need("logp", SELF)]
    (-logp.exp().mean()).backward()
    expected = {name: p.grad.clone() for name, p in world.learner.train_parameters().items()}
    assert difference(of("dft"), expected) < FLOAT32


def test_with_the_weight_differentiated_unlikely_tokens_would_be_pushed_down():
    """d(-p log p) = -(1 + log p) dp changes sign at p = 1/e; the detached weight never does."""
    p = torch.tensor([0.1, 0.9], dtype=torch.float64, requires_grad=True)
    (wrong,) = torch.autograd.grad((-p * p.log()).sum(), p)
    assert wrong[0] > 0 > wrong[1]


def test_thresholds_that_exclude_nothing_change_nothing():
    plain = of("probability_family", a=2.0)
    assert difference(of("probability_family", a=2.0, at_least=0.0, at_most=1.0), plain) == 0
    low, high = (of("probability_family", a=2.0, **{side: 0.05}) for side in ("at_least", "at_most"))
    assert difference({name: low[name] + high[name] for name in low}, plain) < FLOAT32


def test_psft_is_sft_at_the_first_step_of_a_buffer():
    assert difference(of("psft", groups=with_proximal(started())), of("sft")) < FLOAT32


def test_psft_without_a_clip_weighs_by_the_ratio_and_with_one_stops_what_grew():
    other = World(model(5), {})
    groups = score_buffer(other.learner, demonstrations(), PROXIMAL, 1000)
    clipped, open_ended = (of("psft", groups=groups, clip=c) for c in ((0.2, 0.28), (0.2, 1e9)))
    assert difference(clipped, open_ended) > 1e-2
    batch = weigh(Batch.of(groups), learner("psft").terms)
    _, metrics = learner("psft").terms[0].units(batch, score(moved(), batch, learner("psft").needs))
    ratio = (score(moved(), batch, [Need("logp", SELF)])[Need("logp", SELF)] - batch.columns[PROXIMAL.column]).exp()
    total, count = metrics["ratio/clip_frac"]
    assert total / count == pytest.approx(float((ratio > 1.28).float().mean()))


def test_asft_is_dft_where_it_starts_and_where_nothing_anchors():
    assert difference(of("asft", started()), of("dft", started())) < FLOAT32_SUM
    assert difference(of("asft", coef=0.0), of("dft")) < FLOAT32


def test_asft_names_the_direction_of_its_kl():
    assert difference(of("asft", direction="forward", coef=9.0), of("asft", direction="reverse", coef=9.0)) > 1e-3


def test_iw_sft_is_sft_where_it_starts():
    for level in ("sequence", "token"):
        assert difference(of("iw_sft", started(), level=level), of("sft", started())) < FLOAT32


def test_a_power_is_never_ignored_at_either_level():
    """lp - lp_start = 0.1 on every token: e^0.1 per token unless a power is written, e^0.2 per sequence."""
    for level, power, expected in (("token", None, 0.1), ("token", 1.5, 0.15), ("sequence", None, 0.2)):
        (term,) = learner("iw_sft", level=level, power=power).terms
        batch = weigh(Batch.of(demonstrations()), [term])
        logp = torch.full((batch.n_tokens,), -1.0)
        _, metrics = term.units(batch, {Need("logp", SELF): logp, term.needs[1]: logp - 0.1})
        total, count = metrics["gain/importance_weight"]
        assert total / count == pytest.approx(np.exp(expected), rel=FLOAT32)


def test_iw_weights_are_bounded_and_detached():
    """exp(9 * mean) would reach far beyond 16; and the loss is linear in logp given its weights."""
    (term,) = learner("iw_sft", power=9.0).terms
    batch = weigh(Batch.of(demonstrations()), [term])
    logp = torch.linspace(-4, 0, batch.n_tokens, requires_grad=True)
    start = torch.full((batch.n_tokens,), -3.0)
    units, metrics = term.units(batch, {Need("logp", SELF): logp, term.needs[1]: start})
    (slope,) = torch.autograd.grad(units.sum(), logp)
    assert close(slope * logp, units, STORED)
    assert float((-slope).max()) == pytest.approx(16.0)


def test_unlikelihood_without_its_coefficient_is_sft():
    (likelihood, penalty) = learner("unlikelihood").terms
    batch = weigh(Batch.of(demonstrations()), [likelihood, penalty])
    batch = prepare(moved(), [likelihood, penalty], batch, None)
    scores = score(moved(), batch, learner("unlikelihood").needs)
    coefficients = {"policy_gradient": 1.0, "unlikelihood": 0.0}
    loss, _ = step_loss([likelihood, penalty], batch, scores, coefficients)
    plain, _ = step_loss([likelihood], batch, scores, coefficients)
    assert float(loss.detach()) == pytest.approx(float(plain.detach()))


def test_unlikelihood_candidates_are_the_earlier_tokens_once_and_never_the_target():
    """y = 5 6 5 7: none; {5}; {6} (5 is the target); {5, 6}."""
    member = Trajectory.of([5, 6, 5, 7], [4], Source.EXTERNAL)
    batch = Batch.of([Group(item=Item(id="i", prompt="p"), views={"prompt": (4,)}, members=(member,))])
    (_, penalty) = learner("unlikelihood").terms
    (need,) = penalty.needs
    found = penalty.prepare(batch, {}).columns[need.at].tolist()
    assert [sorted(id for id in row if id >= 0) for row in found] == [[], [5], [6], [5, 6]]


def test_unlikelihood_by_hand():
    """Two candidates with p 0.5 and 0.2, a third is padding: -log 0.5 - log 0.8; slopes p / (1 - p)."""
    from offon.maths.policy_gradient import unlikelihood

    logp = torch.tensor([[0.5, 0.2, 0.9]], dtype=torch.float64).log().requires_grad_()
    loss = unlikelihood(logp, torch.tensor([[True, True, False]]))
    (slope,) = torch.autograd.grad(loss.sum(), logp)
    assert loss.item() == pytest.approx(-torch.tensor([0.5, 0.8]).log().sum().item())
    assert slope.tolist()[0] == pytest.approx([1.0, 0.25, 0.0])


def test_unlikelihood_stops_at_near_certainty():
    from offon.maths.policy_gradient import unlikelihood

    logp = torch.tensor([[-1e-7], [0.0]], requires_grad=True)
    loss = unlikelihood(logp, torch.ones(2, 1, dtype=torch.bool))
    (slope,) = torch.autograd.grad(loss.sum(), logp)
    assert loss.isfinite().all() and not slope.any()
