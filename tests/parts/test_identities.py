"""Limits that turn one method into another, and gradients against finite differences."""

from __future__ import annotations

import dataclasses
import functools
import math

import numpy as np
import pytest
import torch

from offon.catalogue import registry
from offon.parts import Artefact, behavior, credit, one, per_sequence, policy, policy_gradient, proximal
from offon.parts.models import SELF, Need
from offon.parts.terms import PROXIMAL, Contrast
from offon.parts.terms.divergence import Divergence, Jsd, Skew
from offon.train.loop import assign_credit
from offon.train.optimizer_step import accumulate
from offon.train.scoring import score, score_buffer, step_loss, weigh
from offon.types import Producer, Sampling, Source, Trajectory
from offon.types.batch import Batch
from tests.catalogue.test_contract import difference, gradient
from tests.rounding import FLOAT32, FLOAT32_SUM, SLOPE
from tests.support import ParityTask, World, demonstrations, gpt2_in_double, model, preference_pairs, prompt_group

world = functools.cache(lambda: World(model(0), {"start": model(0), "teacher": model(2)}))


def sampled_groups(rewards=(1.0, 0.0, 0.0, 1.0)):
    """Groups of four external-looking rollouts whose behaviour log-probs are the learner's own: every ratio is 1."""
    groups = []
    for draw, item in enumerate(ParityTask().items("train")[:5]):
        group = prompt_group(item)
        for i, reward in enumerate(rewards):
            tokens = [2 + (draw + i + t) % 10 for t in range(1 + (draw + i) % 4)] + [1]
            producer = Producer(model="m", sampling=Sampling())
            member = Trajectory.of(tokens, group.prompt, Source.LEARNER, signals={"reward": reward}, producer=producer)
            group = group.add(member)
        groups.append(group.replace(draw=draw))
    scored = score_buffer(world().learner, groups, PROXIMAL, 10_000)
    return [g.map(lambda m: m.replace(behavior_logp=m.token_signals[PROXIMAL.column])) for g in scored]


def test_at_ratio_one_grpo_is_reinforce_whatever_the_ratio_level_and_clip():
    (grpo,) = registry.get("grpo").function(ParityTask()).learners
    groups = assign_credit(grpo, sampled_groups())
    reinforce = policy(policy_gradient(advantage=credit, reduce=per_sequence), credit=grpo.credit)
    expected = gradient(reinforce, groups, world())
    assert difference(gradient(grpo, groups, world()), expected) < FLOAT32
    for level in ("geometric", "sequence"):
        ratio = dataclasses.replace(behavior, level=level)
        other = policy(policy_gradient(advantage=credit, ratio=ratio, reduce=per_sequence))
        assert difference(gradient(other, groups, world()), expected) < FLOAT32


def test_behaviour_and_proximal_anchors_agree_on_a_fresh_buffer():
    groups = assign_credit(registry.get("grpo").function(ParityTask()).learners[0], sampled_groups())
    terms = [policy(policy_gradient(advantage=credit, ratio=r)) for r in (behavior, proximal)]
    assert difference(gradient(terms[0], groups, world()), gradient(terms[1], groups, world())) < FLOAT32


def test_grpo_of_equal_rewards_is_exactly_zero():
    (grpo,) = registry.get("grpo").function(ParityTask()).learners
    groups = assign_credit(grpo, sampled_groups(rewards=(1.0, 1.0, 1.0)))
    world().learner.hf.zero_grad()
    accumulate(world(), grpo, weigh(Batch.of(groups), grpo.terms), {"policy_gradient": 1.0}, None)
    assert all(p.grad is None or not p.grad.any() for p in world().learner.train_parameters().values())


def test_an_advantage_of_one_on_own_samples_is_sft_on_them():
    """RAFT's term and SFT's are the same row; only the source of the tokens differs."""
    groups = [g.map(lambda m: m.with_token_signals(advantage=np.ones(len(m)))) for g in sampled_groups()]
    sft = policy(policy_gradient(advantage=one))
    ones = policy(policy_gradient(advantage=credit))
    assert difference(gradient(sft, groups, world()), gradient(ones, groups, world())) < FLOAT32


def test_dpo_starts_at_log_two_with_chance_accuracy():
    """pi = ref: every margin is 0. Tested against a separate copy of the weights, scored in other company."""
    dpo = policy(Contrast())
    batch = weigh(Batch.of(preference_pairs()), dpo.terms)
    loss, metrics = step_loss(dpo.terms, batch, score(world(), batch, dpo.needs), {dpo.terms[0].name: 1.0})
    assert loss.item() == pytest.approx(math.log(2), abs=FLOAT32)


def test_dpo_gradient_is_beta_sigma_weighted_policy_gradient():
    """Bridge: A = +-beta sigmoid(-h) / P on chosen and rejected, the same gradient as the loss itself."""
    other = World(model(1), {"start": model(0)})
    dpo = policy(Contrast(beta=0.5))
    pairs = preference_pairs()
    batch = weigh(Batch.of(pairs), dpo.terms)
    scores = score(other, batch, dpo.needs)
    ratio = (scores[Need("logp", SELF)] - scores[dpo.needs[1]]).detach()
    sums = torch.zeros(batch.n_sequences).index_add(0, batch.sequence, ratio)
    h = 0.5 * (sums[batch.pairs[:, 0]] - sums[batch.pairs[:, 1]])
    strength = (0.5 * torch.sigmoid(-h) / len(h)).tolist()

    def advantages(group, a):
        signed = zip(group.members, (a, -a), strict=True)
        return group.replace(members=tuple(m.with_token_signals(advantage=np.full(len(m), x)) for m, x in signed))

    credited = [advantages(group, a) for group, a in zip(pairs, strength, strict=True)]
    bridge = policy(policy_gradient(advantage=credit, name="sum"))
    weighted = Batch.of(credited).with_weights({"sum": torch.ones(batch.n_tokens, dtype=torch.float64)})
    assert difference(gradient(bridge, credited, other, batch=weighted), gradient(dpo, pairs, other)) < FLOAT32


def test_dpo_with_nll_has_two_denominators_in_one_batch():
    """per pair: 1/P sum 1/|y_w|; per token: 1/(all chosen tokens). Rejected tokens have weight 0 in both."""
    for per, expected in (("pair", lambda n, P, total: 1 / (P * n)), ("token", lambda n, P, total: 1 / total)):
        (dpo,) = registry.get("dpo").function(data=preference_pairs(), nll=1.0, nll_per=per).learners
        batch = weigh(Batch.of(preference_pairs()), dpo.terms)
        chosen = [len(t) for t in batch.trajectories if "chosen" in t.tags]
        for index, trajectory in enumerate(batch.trajectories):
            weight = batch.weights["nll"][batch.sequence == index]
            right = expected(len(trajectory), len(chosen), sum(chosen)) if "chosen" in trajectory.tags else 0.0
            assert torch.allclose(weight, torch.full_like(weight, right))
        assert batch.weights["contrast"].sum().item() == pytest.approx(1.0)


@pytest.mark.parametrize("kind", ["forward", "reverse", Jsd(0.5), Skew(0.1), Skew(0.1, "reverse")])
def test_distilling_from_oneself_is_zero_with_zero_gradient(kind):
    same = World(model(0), {"teacher": model(0)})
    learner = policy(Divergence(to=Artefact("teacher"), kind=kind))
    batch = weigh(Batch.of(demonstrations()), learner.terms)
    loss, _ = step_loss(learner.terms, batch, score(same, batch, learner.needs), {"divergence": 1.0})
    assert abs(loss.item()) < FLOAT32
    loss.backward()
    assert max(float(p.grad.abs().max()) for p in same.learner.train_parameters().values()) < FLOAT32


def test_an_anchor_to_the_start_adds_nothing_at_the_start():
    stage = registry.get("kl_anchor").function(registry.get("grpo").function(ParityTask()), coef=10.0)
    groups = assign_credit(stage.learners[0], sampled_groups())
    plain = policy(stage.learners[0].terms[0])
    assert difference(gradient(stage.learners[0], groups, world()), gradient(plain, groups, world())) < FLOAT32_SUM


def test_a_ratio_across_views_is_not_one_where_the_hint_was_dropped():
    """Trained under the plain prompt, sampled under the hint: the ratio is pi(y|x) / pi(y|x, hint). Rescoring the
    behaviour under the wrong prompt would make it 1 and hide that."""
    groups = sampled_groups()
    hinted = [g.map(lambda m, g=g: m.replace(views={"sample": g.views["hint"], "train": g.prompt})) for g in groups]
    rescored = score_buffer(world().learner, hinted, Need("logp", SELF, view="sample", when="buffer"), 10_000)
    true = [g.map(lambda m: m.replace(behavior_logp=m.token_signals["logp@self/sample"])) for g in rescored]
    term = policy_gradient(advantage=one, ratio=behavior)

    def mean_ratio(groups):
        batch = weigh(Batch.of(groups), (term,))
        _, metrics = term.units(batch, score(world(), batch, term.needs))
        total, count = metrics["ratio/mean"]
        return total / count

    assert mean_ratio(groups) == pytest.approx(1.0, abs=FLOAT32)
    assert abs(mean_ratio(true) - 1.0) > 0.01
    assert all(m.off_policy_by_conditioning for g in true for m in g.members)


@pytest.mark.parametrize("name", ["sft", "dpo", "kd", "on_policy_distill"])
def test_gradient_equals_finite_differences(name):
    """float64 along a random direction of all parameters. These losses have no detached coefficients at defaults."""
    learner_model = gpt2_in_double(0)
    doubles = World(learner_model, {"start": gpt2_in_double(1), "teacher": gpt2_in_double(2)})
    groups = preference_pairs() if name == "dpo" else demonstrations()
    if name == "on_policy_distill":
        groups = [g.map(lambda m: m.replace(source=np.full(len(m), Source.LEARNER, np.int8))) for g in groups]
    info = registry.get(name)
    inputs = {"teacher": "teacher", "task": ParityTask(), "data": groups}
    (learner,) = info.function(**{k: inputs[k] for k in info.inputs}).learners
    batch = weigh(Batch.of(groups), learner.terms)
    coefficients = {term.name: 1.0 for term in learner.terms}
    parameters = learner_model.train_parameters()
    direction = {n: torch.randn(p.shape, dtype=torch.float64) for n, p in parameters.items()}

    def loss_at(step: float) -> float:
        with torch.no_grad():
            for n, p in parameters.items():
                p.add_(step * direction[n])
            value = step_loss(learner.terms, batch, score(doubles, batch, learner.needs), coefficients)[0].item()
            for n, p in parameters.items():
                p.sub_(step * direction[n])
        return value

    h = 1e-5
    numeric = (loss_at(h) - loss_at(-h)) / (2 * h)
    loss, _ = step_loss(learner.terms, batch, score(doubles, batch, learner.needs), coefficients)
    loss.backward()
    along = [p.grad * direction[n] for n, p in parameters.items()]
    size = sum(float(part.abs().sum()) for part in along)
    assert sum(float(part.sum()) for part in along) == pytest.approx(numeric, abs=SLOPE * size)
