"""Mixed rows: limits that turn one into another, hand numbers of their weights, and what each step is made of."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch

from offon.catalogue import registry
from offon.data import Renderer
from offon.errors import ConfigError
from offon.parts import behavior, constant, credit, one, policy, policy_gradient
from offon.parts.terms import ShapedRatio
from offon.train.loop import assign_credit
from offon.types import Source
from tests.catalogue.cases import Case, Loss, Ready, difference, gradient_of, ready_case
from tests.rounding import FLOAT32, FLOAT64_SUM, STORED, close
from tests.support import ParityTask, demonstrations, tokenizer

ANY = (1.0, 1e9)  # a clip that never holds anything back


def one_learner(row: str, /, **arguments) -> Ready:
    [learner] = ready_case(Case(row, arguments))
    return learner


def with_coefficients(learner: Ready, **coefs: float) -> Ready:
    terms = tuple(dataclasses.replace(t, coef=coefs.get(t.name, t.coef)) for t in learner.learner.terms)
    return dataclasses.replace(learner, learner=dataclasses.replace(learner.learner, terms=terms))


def of(learner: Ready, *names: str) -> Ready:
    """Only these terms of it."""
    terms = tuple(t for t in learner.learner.terms if t.name in names)
    return dataclasses.replace(learner, learner=dataclasses.replace(learner.learner, terms=terms))


def per_token(learner: Ready, logp=None, groups=None) -> tuple[torch.Tensor, Loss]:
    """d loss / d log pi(y_t) at these log-probs, [M], and the loss it is of."""
    loss = Loss(learner, learner.batch(groups))
    [position] = [i for i, leaf in enumerate(loss.leaves) if leaf.need.what == "logp"]
    values = [leaf.value for leaf in loss.leaves]
    if logp is not None:
        values[position] = torch.as_tensor(logp).expand_as(values[position]).to(values[position])
    return loss.gradient(values)[position], loss


def rows_of(loss: Loss, source: Source) -> torch.Tensor:
    return loss.batch.columns["source"] == source


# --- luffy ---


def test_a_group_of_demonstrations_alone_is_refused():
    with pytest.raises(ConfigError, match="-1 rollouts"):
        registry.get("luffy").function(ParityTask(), [], group_size=2, demos=3)


def test_luffy_without_demonstrations_is_dr_grpo():
    luffy = one_learner("luffy", group_size=5, demos=0, clip=(0.2, 0.2), length=3000)
    assert difference(gradient_of(luffy), gradient_of(one_learner("dr_grpo", group_size=5, length=3000))) < FLOAT32


@pytest.mark.parametrize("p, weight", [(0.1, 0.25), (1.0, 0.1 / 1.21)])
def test_luffy_s_weight_on_a_demonstrated_token(p, weight):
    """p gamma / (p + gamma)^2 with gamma 0.1: 1/4 at p = 0.1, 0.083 at p = 1; times -A / (N length)."""
    luffy = one_learner("luffy", group_size=4, length=10)
    found, loss = per_token(luffy, math.log(p))
    demo = rows_of(loss, Source.EXTERNAL)
    advantage = loss.batch.columns["advantage"][demo].double()
    assert close(found[demo], -weight * advantage / (10 * loss.batch.n_sequences), STORED)
    assert advantage.abs().max() > 0


def test_luffy_compares_demonstrations_with_rollouts_and_counts_both():
    luffy = one_learner("luffy", group_size=4)
    for group in luffy.groups:
        rewards = [m.signals["reward"] for m in group.members]
        advantage = [float(m.token_signals["advantage"][0]) for m in group.members]
        assert advantage == pytest.approx([r - np.mean(rewards) for r in rewards])
        assert [set(m.source.tolist()) for m in group.members] == [{Source.LEARNER}] * 3 + [{Source.EXTERNAL}]


# --- srft ---


def test_srft_s_weights_are_entropies_of_the_learner():
    """Own right responses: -0.1 e^H / (N L); wrong ones +1 / (N L); H the mean entropy of the response."""
    srft = one_learner("srft", group_size=4, length=10)
    found, loss = per_token(srft)
    [entropy] = [loss.given[n] for n in loss.given if n.what == "entropy"]
    n = 10 * loss.batch.n_sequences
    for i, member in enumerate(loss.batch.trajectories):
        rows = loss.batch.sequence == i
        if Source.EXTERNAL in member.source:
            continue
        right = 0.1 * math.exp(float(entropy[rows].mean()))
        expected = -right / n if member.signals["reward"] >= 1 else 1 / n
        assert found[rows].tolist() == pytest.approx([expected] * int(rows.sum()), rel=FLOAT32)


# --- uft ---


def test_uft_without_hints_is_grpo():
    uft = one_learner("uft", group_size=4, start=0.0, end=0.0)
    assert difference(gradient_of(uft), gradient_of(one_learner("grpo", group_size=4))) < FLOAT32


def test_uft_with_whole_hints_is_sft_and_a_last_token():
    """Every response begins with all of the demonstration but its end token; the hint is likelihood, sft/M each."""
    uft = one_learner("uft", group_size=3, start=1.0, end=1.0, cuts=1, sft=0.5)
    told = {g.prompt: g.members[0] for g in demonstrations()}
    for group in uft.groups:
        demo = told[group.prompt].tokens[:-1].tolist()
        assert all(m.tokens[: len(demo)].tolist() == demo for m in group.members)
        assert all((m.source[: len(demo)] == Source.EXTERNAL).all() for m in group.members)
        assert all((m.source[len(demo) :] == Source.LEARNER).all() for m in group.members)
    found, loss = per_token(uft)
    hint = rows_of(loss, Source.EXTERNAL)
    assert torch.allclose(found[hint], torch.full_like(found[hint], -0.5 / int(hint.sum())))


def test_uft_hints_have_the_length_of_a_binomial_that_falls():
    """cuts 2 of a demonstration, p 1/2: nothing, half or all of it, the same for a group."""
    uft = one_learner("uft", group_size=2, start=0.5, end=0.5, cuts=2)
    told = {g.prompt: len(g.members[0]) - 1 for g in demonstrations()}
    lengths = set()
    for group in uft.groups:
        [hint] = {int((m.source == Source.EXTERNAL).sum()) for m in group.members}
        assert hint in {round(k / 2 * told[group.prompt]) for k in range(3)}
        lengths.add(hint)
    assert len(lengths) > 1


# --- chord ---


def test_chord_at_mu_0_is_grpo_with_a_token_mean_and_at_mu_1_sft():
    chord = one_learner("chord", group_size=4, weight="mu", clip=ANY)
    rl = gradient_of(with_coefficients(chord, rollouts=1.0, sft=0.0))
    plain = policy_gradient(advantage=credit, ratio=behavior, on="learner")
    assert difference(rl, gradient_of(dataclasses.replace(chord, learner=policy(plain)))) < FLOAT32
    sft = dataclasses.replace(chord, learner=policy(policy_gradient(advantage=one, on="external")))
    assert difference(gradient_of(with_coefficients(chord, rollouts=0.0, sft=1.0)), gradient_of(sft)) < FLOAT32


def test_chord_s_mu_rises_and_falls_and_its_two_weights_add_up_to_1():
    rl, sft = (
        term.coef
        for term in registry.get("chord")
        .function("task", [], weight="mu", peak=0.9, valley=0.05, rise=0.2, over=0.5)
        .learners[0]
        .terms
    )
    values = [sft(step, 10) for step in range(11)]
    assert values[:3] == pytest.approx([0.0, 0.45, 0.9]) and values[7:] == pytest.approx([0.05] * 4)
    assert [rl(step, 10) + sft(step, 10) for step in range(11)] == pytest.approx([1.0] * 11)


@pytest.mark.parametrize("p", [0.5, 0.9, 1e-3])
def test_chord_s_phi_is_at_most_a_quarter(p):
    """p (1 - p): 1/4 at p = 1/2, detached."""
    chord = with_coefficients(one_learner("chord", group_size=4), sft=1.0, rollouts=0.0)
    found, loss = per_token(chord, math.log(p))
    demo = rows_of(loss, Source.EXTERNAL)
    assert torch.allclose(found[demo], torch.full_like(found[demo], -p * (1 - p) / int(demo.sum())), rtol=STORED)
    assert float(-found[demo].sum()) <= 0.25 + FLOAT64_SUM


def test_chord_s_demonstrations_are_no_one_s_baseline():
    chord = one_learner("chord", group_size=4)
    for group in chord.groups:
        own = [m for m in group.members if Source.LEARNER in m.source]
        assert sum(float(m.token_signals["advantage"][0]) for m in own) == pytest.approx(0, abs=FLOAT32)
        assert all("advantage" not in m.token_signals for m in group.members if Source.EXTERNAL in m.source)


# --- hpt ---


def test_hpt_is_dr_grpo_on_what_is_solved_and_sft_on_what_is_not():
    hpt = one_learner("hpt", group_size=2, length=3000)
    solved = [g for g in hpt.groups if Source.LEARNER in g.members[0].source]
    failed = [g for g in hpt.groups if Source.EXTERNAL in g.members[0].source]
    assert solved and failed and len(solved) + len(failed) == len(hpt.groups)
    for group in failed:
        assert [m.signals["reward"] for m, _ in group.dropped] == [0.0, 0.0] and len(group.members) == 1
    rl = one_learner("dr_grpo", group_size=2, length=3000, clip=ANY)
    assert difference(gradient_of(hpt, solved), gradient_of(rl, solved)) < FLOAT32
    sft = dataclasses.replace(hpt, learner=policy(policy_gradient(advantage=one, reduce=constant(3000))))
    assert difference(gradient_of(hpt, failed), gradient_of(sft, failed)) < FLOAT32


def test_every_prompt_of_hpt_weighs_the_same_whatever_its_kind():
    """1/P for each of P prompts: 1/(P G length) a token of a rollout, 1/(P length) of a demonstration."""
    hpt = one_learner("hpt", group_size=2, length=10)
    batch = hpt.batch()
    for group in range(len(hpt.groups)):
        members = (batch.group == group).nonzero()[:, 0].tolist()
        weights = [sum(w[batch.sequence == m].max() for w in batch.weights.values()) for m in members]
        assert float(sum(weights)) == pytest.approx(1 / (10 * len(hpt.groups)))


# --- relift ---


def test_relift_on_rollouts_is_rl_without_std_and_a_step_of_demonstrations_is_sft(monkeypatch):
    relift = one_learner("relift", group_size=4)
    assert all(set(m.source.tolist()) == {Source.LEARNER} for g in relift.groups for m in g.members)
    assert difference(gradient_of(relift), gradient_of(of(relift, "rollouts"))) < FLOAT32
    shown = [g.replace(draw=i) for i, g in enumerate(demonstrations()[:4])]
    sft = dataclasses.replace(relift, learner=policy(policy_gradient(advantage=one)))
    assert difference(gradient_of(relift, shown), gradient_of(sft, shown)) < FLOAT32


# --- repo ---


def test_repo_without_replays_is_grpo():
    repo = one_learner("repo", group_size=4, replays=0)
    assert difference(gradient_of(repo), gradient_of(one_learner("grpo", group_size=4))) < FLOAT32


def test_replays_of_the_same_responses_count_twice():
    """L(fresh) + coef L(replays) with replays equal to what is fresh: 1 + coef times grpo's gradient."""
    repo = with_coefficients(one_learner("repo", group_size=4, replays=0), replays=0.5)
    doubled = [
        g.add(*(m.replace(id=m.id + "again", token_signals={}).tagged("replay") for m in g.members))
        for g in repo.groups
    ]
    credited = assign_credit(repo.learner, doubled)
    once = gradient_of(one_learner("grpo", group_size=4))
    twice = gradient_of(repo, credited)
    assert difference(twice, {name: 1.5 * g for name, g in once.items()}) < FLOAT32


# --- exgrpo ---


def test_exgrpo_s_weight_on_a_replayed_token_that_is_as_likely_as_it_was():
    """f'(r) r = r gamma / (r + gamma)^2 at r = 1, gamma 0.1: 0.1 / 1.21 = 0.083, times -A / (N length)."""
    assert float(ShapedRatio(0.1)(torch.ones(1), torch.ones(1))[0]) == pytest.approx(0.0826, abs=1e-4)
    exgrpo = one_learner("exgrpo", group_size=4, length=10)
    groups = [g.replace(members=(g.members[0].tagged("replay"), *g.members[1:])) for g in exgrpo.groups]
    sampled = Loss(exgrpo, exgrpo.batch(groups)).batch.columns["behavior_logp"].double()
    found, loss = per_token(exgrpo, sampled, groups)
    replayed = torch.tensor(["replay" in t.tags for t in loss.batch.trajectories])[loss.batch.sequence]
    weight = torch.where(replayed, 0.1 / 1.21, 1.0).double()
    expected = -weight * loss.batch.columns["advantage"].double() / (10 * loss.batch.n_sequences)
    assert close(found, expected, STORED)


# --- fates and provenance ---


@pytest.mark.parametrize("row", ["luffy", "srft", "chord", "hpt", "relift"])
def test_data_of_other_prompts_are_refused(row):
    stage = registry.get(row).function(ParityTask(), [g.replace(views={"prompt": (9,)}) for g in demonstrations()])
    prompts = demonstrations()
    with pytest.raises(ValueError, match="no prompt of the task has a demonstration"):
        for part in stage.collect.everything:
            part.check(prompts, Renderer(tokenizer()))
