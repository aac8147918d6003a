"""Modifiers of stages that learn from rewards: their limits, hand numbers, and what each KL estimate's gradient is."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from offon.catalogue import registry
from offon.errors import ConfigError
from offon.parts import policy
from offon.parts.credits import kl_penalty, no_baseline, return_to_go
from offon.parts.models import SELF, SELF_START, Need
from offon.train.loop import assign_credit
from offon.train.scoring import layout_of, weigh
from offon.types import Source, Trajectory
from offon.types.batch import Batch
from tests.catalogue.cases import difference
from tests.catalogue.rewarded import advantages_of, gradient_of, gradient_with, groups, learner, pushes, same, world
from tests.rounding import FLOAT32, STORED
from tests.support import ParityTask, prompt_group

# --- corrections for another sampler ------------------------------------------------------------------------------


CORRECTIONS = [("tis", {}), ("mis", {}), ("mis", {"level": "geometric"}), ("icepop", {}), ("icepop", {"count": "kept"})]


@pytest.mark.parametrize("correction", [*CORRECTIONS, ("decoupled", {}), ("decoupled", {"beyond": "truncate"})])
def test_where_the_sampler_is_the_learner_a_correction_changes_nothing(correction):
    given = groups()
    same(gradient_with(learner("grpo", correction), given), gradient_of("grpo", given))


@pytest.mark.parametrize(
    "correction",
    [
        ("tis", {"cap": 1e6}), ("mis", {"high": 1e6, "level": "token"}), ("icepop", {"low": 0.0, "high": 1e6}),
        ("decoupled", {"cap": 1e6}),
    ],
)  # fmt: skip
def test_without_a_bound_a_correction_is_pure_importance_sampling(correction):
    """The buffer was just filled: pi = pi_proximal, so rho alone is pi / pi_sampled."""
    given = groups(gap=0.3)
    wide = {"clip": (1e6, 1e6)}
    same(gradient_with(learner("grpo", correction, **wide), given), gradient_of("grpo", given, **wide))


def test_three_policies_by_hand():
    """A = 1, lp -1, proximal -1.1, sampled (-1.3, -3.1): r_p = e^.1; w_b = e^.2 = 1.22 and e^2 = 7.39."""
    members, lp = [(1.0, 1.0)], [[-1.0, -1.0]]
    given = {"old": [[-1.3, -3.1]], "proximal": [[-1.1, -1.1]]}
    small, r = np.exp(0.2), np.exp(0.1)

    def coefficients(*correction):
        return pushes(learner("grpo", correction), members, lp, **given)

    assert coefficients("decoupled", {}) == pytest.approx([small * r, 0.0], rel=FLOAT32)
    assert coefficients("decoupled", {"beyond": "truncate"}) == pytest.approx([small * r, 5 * r], rel=FLOAT32)
    assert coefficients("tis", {}) == pytest.approx([small * r, 2 * r], rel=FLOAT32)
    assert coefficients("icepop", {}) == pytest.approx([small * r, 0.0], rel=FLOAT32)
    assert coefficients("icepop", {"high": 9.0}) == pytest.approx([small * r, np.exp(2) * r], rel=FLOAT32)
    assert coefficients("mis", {}) == [0.0, 0.0]  # e^2.2 = 9 for the response
    geometric = np.exp(1.1)
    assert coefficients("mis", {"level": "geometric", "high": 4.0}) == pytest.approx([geometric * r] * 2, rel=FLOAT32)


def test_decoupled_with_the_learner_itself_as_proximal_policy_is_importance_sampling_alone():
    """r_p = 1 whatever the clip: the coefficient is w_b A. With the sampler as proximal policy it is ppo."""
    members, lp, old = [(2.0, 1.0)], [[-1.0, -2.0]], [[-1.3, -1.5]]
    made = learner("grpo", ("decoupled", {}))
    assert pushes(made, members, lp, old=old, proximal=lp) == pytest.approx(2 * np.exp([0.3, -0.5]), rel=FLOAT32)
    assert pushes(made, members, lp, old=old, proximal=old) == pytest.approx(
        pushes(learner("grpo"), members, lp, old=old), rel=STORED
    )


def test_masked_tokens_stay_in_the_original_count_and_leave_the_kept_one():
    given = groups(gap=0.3)  # every second token has rho e^-.3 = .74, the others 1.35
    cut = {"low": 0.8, "high": 5.0}
    original, kept = (
        gradient_with(learner("gfpo", ("icepop", {**cut, "count": count}), keep=4), given)
        for count in ("original", "kept")
    )
    n = sum(len(m) for g in given for m in g.members)
    n_kept = sum(len(m) // 2 for g in given for m in g.members)
    same({name: g * n / n_kept for name, g in original.items()}, kept)


def test_a_correction_never_multiplies_the_kl_term():
    stage = learner("grpo", ("kl_loss", {}), ("tis", {}))
    assert [term.correction is not None for term in stage.terms] == [True, False]


def test_stages_without_an_advantage_refuse_corrections():
    sft = registry.get("sft").function(data=[])
    for name in ("tis", "high_entropy", "kl_reward", "pass_at_k"):
        with pytest.raises(ConfigError, match="credit|advantage"):
            registry.get(name).function(sft)


def test_a_second_correction_or_choice_of_tokens_is_refused_and_never_takes_the_place_of_the_first():
    once = registry.get("tis").function(registry.get("clip_cov").function(task=ParityTask()))
    for name in ("tis", "icepop", "high_entropy"):
        with pytest.raises(ConfigError, match="already"):
            registry.get(name).function(once)


def test_terms_beside_the_first_are_the_policys_and_read_what_its_first_term_reads():
    """prime's reward model is no policy; remax's greedy response and luffy's demonstrations are not to be held."""
    task = ParityTask()
    for row, on in (("prime", "trainable"), ("remax", "!tag:baseline"), ("luffy", "learner")):
        given = {"task": task, **{"luffy": {"data": []}, "prime": {"update": "before"}}.get(row, {})}
        before = registry.get(row).function(**given)
        for name in ("kl_loss", "entropy_bonus"):
            after = registry.get(name).function(before)
            added = after.main.terms[-1]
            assert (added.name.startswith(name[:2]), added.on, added.reduce) == (True, on, before.main.terms[0].reduce)
            others = [learner for learner in after.learners if learner is not after.main]
            assert others == [learner for learner in before.learners if learner is not before.main]
    for row, given in (("dpo", {"data": []}), ("kto", {"data": []}), ("srft", {"task": task, "data": []})):
        with pytest.raises(ConfigError, match="no sum over tokens"):
            registry.get("kl_loss").function(registry.get(row).function(**given))


def test_a_penalty_in_the_reward_reaches_the_advantage_or_is_refused():
    """gdpo normalises named rewards, vineppo reads values: a penalty on tokens would be lost in both."""
    task = ParityTask()
    for row in ("gdpo", "vineppo"):
        with pytest.raises(ConfigError, match="would be lost"):
            registry.get("kl_reward").function(registry.get(row).function(task=task))
    group = prompt_group(task.items("train")[0])
    member = Trajectory.of(
        [2, 3], group.prompt, Source.LEARNER, behavior_logp=[-1.0, -2.0], signals={"reward": 0.0}
    ).with_token_signals(**{"logp@teacher": np.array([-0.5, -2.0]), "logp@start": np.array([-2.0, -2.5])})
    stage = registry.get("opd").function(task=task, teacher="t")
    (charged,) = registry.get("kl_reward").function(stage, coef=0.1).learners
    ((credited,),) = (g.members for g in assign_credit(charged, [group.add(member)]))
    assert credited.token_signals["advantage"] == pytest.approx([0.5 - 0.1 * 1.0, 0.0 - 0.1 * 0.5])


# --- what credit aims at ----------------------------------------------------------------------------------------------


def test_pass_at_one_is_the_reward_without_baseline():
    given = groups()
    assert advantages_of(learner("grpo", ("pass_at_k", {"k": 1})), given) == [1.0, 0.0, 0.0, 1.0] * 4


def test_pass_at_k_on_a_prompt_solved_often_teaches_nothing():
    """n = 4, k = 2, three right: every pair without i already has a right one unless it is alone with the wrong one."""
    often, once = groups(rewards=(1.0, 1.0, 1.0, 0.0)), groups(rewards=(0.0, 1.0, 0.0, 0.0))
    made = learner("grpo", ("pass_at_k", {"k": 2}))
    assert advantages_of(made, often)[:4] == pytest.approx([4 / 6, 4 / 6, 4 / 6, 0.0], rel=STORED)
    assert advantages_of(made, once)[:4] == pytest.approx([0.0, 2.0, 0.0, 0.0])


@pytest.mark.parametrize(
    "before",
    [
        ("templates", {"texts": ("w9 {prompt}",), "baseline": "view"}),
        ("replay", {"data": [], "share": 0.5}),
        ("kl_reward", {}),
    ],
)
def test_pass_at_k_takes_the_place_of_a_comparison_that_a_modifier_has_wrapped(before):
    """One right of four, k = 2: 2 for it, as without the modifier. The order of the two does not matter."""
    once = groups(rewards=(0.0, 1.0, 0.0, 0.0))
    made, turned = learner("grpo", before, ("pass_at_k", {"k": 2})), learner("grpo", ("pass_at_k", {"k": 2}), before)
    assert made.credit == turned.credit != learner("grpo", before).credit
    if before[0] != "kl_reward":
        assert advantages_of(made, once)[:4] == pytest.approx([0.0, 2.0, 0.0, 0.0])


def test_pass_at_k_counts_rollouts_under_other_collectors_and_refuses_a_stage_that_compares_nobody():
    with pytest.raises(ConfigError, match="pass@8 of groups of 4"):
        learner("grpo", ("replay", {"data": []}), ("pass_at_k", {"k": 8}), group_size=4)
    with pytest.raises(ConfigError, match="makes none"):
        learner("ppo", ("pass_at_k", {"k": 1}))


def test_a_group_smaller_than_k_is_set_aside():
    (first, *_) = assign_credit(learner("grpo", ("pass_at_k", {"k": 5})), groups())
    assert first.members == () and first.dropped[0][1] == "group too small for its credit"


def test_all_tokens_are_the_whole_share_of_high_entropy():
    given = groups(gap=0.3)
    same(gradient_with(learner("grpo", ("high_entropy", {"share": 1.0})), given), gradient_of("grpo", given))
    cut = gradient_with(learner("grpo", ("high_entropy", {"share": 0.2})), given)
    assert difference(cut, gradient_of("grpo", given)) > 1e-2


def test_the_entropy_bonus_is_autograd_of_the_entropy_over_the_whole_vocabulary():
    """Against logits made in one piece: -coef / M sum_t H_t, alone (equal rewards leave grpo nothing)."""
    flat = groups(rewards=(1.0, 1.0))
    found = gradient_with(learner("gfpo", ("entropy_bonus", {"coef": 1.0}), keep=2), flat)
    batch, model = Batch.of(flat), world().learner
    layout = layout_of(batch.trajectories, "train")
    p = model.next_logits(model.hidden(layout)).log_softmax(-1)
    loss = (p.exp() * p).sum(-1).mean()
    parameters = model.train_parameters()
    expected = dict(zip(parameters, torch.autograd.grad(loss, [*parameters.values()]), strict=True))
    same(found, expected)


# --- KL: what each place and estimator does, by enumeration ---------------------------------------------------------
#
# A policy over the 9 responses of two tokens from a vocabulary of 3: logits [3] for the first token, [3, 3] after it.


def tabular(seed):
    generator = torch.Generator().manual_seed(seed)
    first, second = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in ((3,), (3, 3)))
    return first.requires_grad_(), second.requires_grad_()


RESPONSES = list(itertools.product(range(3), repeat=2))


def log_probabilities(theta):
    """[9, 2]"""
    first, second = (logits.log_softmax(-1) for logits in theta)
    return torch.stack([torch.stack([first[a], second[a, b]]) for a, b in RESPONSES])


def kl(p, q):
    return (p.log_softmax(-1).exp() * (p.log_softmax(-1) - q.log_softmax(-1))).sum(-1)


def per_position(divergence, theta, ref, sampler):
    """The divergence at each prefix, prefixes weighted as the sampler visits them (not differentiated)."""
    visits = sampler[0].softmax(-1).detach()
    return divergence(theta[0], ref[0]) + (visits * divergence(theta[1], ref[1])).sum()


def expected_gradient(made, theta, ref, sampler, credit=None):
    """sum over responses of sampler(y) * the gradient of the learner's last term on y."""
    lp, sampled, reference = (log_probabilities(t) for t in (theta, sampler, ref))
    group = prompt_group(ParityTask().items("train")[0])
    for old, base in zip(sampled.detach().numpy(), reference.detach().numpy(), strict=True):
        member = Trajectory.of([2, 2], group.prompt, Source.LEARNER, behavior_logp=old, signals={"reward": 0.0})
        group = group.add(member.with_token_signals(**{"logp@start": base}))
    if credit is not None:
        group = assign_credit(policy(credit=credit), [group])[0]
    term = made.terms[-1]
    batch = weigh(Batch.of([group]), (term,))
    scores = {Need("logp", SELF): lp.flatten(), Need("logp", SELF_START): reference.detach().flatten()}
    units, _ = term.units(batch, scores)
    chance = sampled.sum(-1).exp().detach().repeat_interleave(2)
    return torch.autograd.grad((chance * units).sum(), theta)


def agree(found, expected, tolerance=STORED):
    return all(torch.allclose(a, b, atol=tolerance) for a, b in zip(found, expected, strict=True))


THETA, REF, OTHER = tabular(0), tabular(1), tabular(2)


def reverse(p, q):
    return kl(p, q)


def forward(p, q):
    return kl(q, p)


def kl_term(estimator, over="none"):
    return learner("grpo", ("kl_loss", {"estimator": estimator, "over": over}))


def test_k1_as_a_loss_has_no_expected_gradient():
    found = expected_gradient(kl_term("k1"), THETA, REF, THETA)
    assert agree(found, [torch.zeros_like(t) for t in THETA])


def test_k2_as_a_loss_is_the_reverse_kl_per_position():
    expected = torch.autograd.grad(per_position(reverse, THETA, REF, THETA), THETA)
    assert agree(expected_gradient(kl_term("k2"), THETA, REF, THETA), expected)


def test_k3_as_a_loss_is_the_forward_kl_per_position():
    expected = torch.autograd.grad(per_position(forward, THETA, REF, THETA), THETA)
    found = expected_gradient(kl_term("k3"), THETA, REF, THETA)
    assert agree(found, expected)
    assert not agree(found, torch.autograd.grad(per_position(reverse, THETA, REF, THETA), THETA), 1e-3)


@pytest.mark.parametrize("estimator", ["k1", "k3"])
@pytest.mark.parametrize("sampler", [THETA, OTHER], ids=["own samples", "another's samples"])
def test_a_ratio_times_k1_or_k3_as_a_loss_is_the_reverse_kl_also_on_another_samplers_tokens(estimator, sampler):
    expected = torch.autograd.grad(per_position(reverse, THETA, REF, sampler), THETA)
    assert agree(expected_gradient(kl_term(estimator, "behavior"), THETA, REF, sampler), expected)


@pytest.mark.parametrize("credit", [no_baseline(), return_to_go()], ids=["one action", "return to go"])
def test_k1_in_the_reward_is_the_sequence_reverse_kl(credit):
    made = learner("reinforce")
    first = THETA[0].log_softmax(-1).exp()
    whole = kl(THETA[0], REF[0]) + (first * kl(THETA[1], REF[1])).sum()  # the visits are differentiated here
    found = expected_gradient(made, THETA, REF, THETA, kl_penalty(1.0) >> credit)
    assert agree(found, torch.autograd.grad(whole, THETA))
    assert not agree(found, torch.autograd.grad(per_position(reverse, THETA, REF, THETA), THETA), 1e-3)


def test_k3_in_the_reward_is_the_reverse_kl_minus_the_forward_kl():
    """At the last token, where return-to-go adds nothing: biased away from the reference's modes."""
    found = expected_gradient(learner("reinforce"), THETA, REF, THETA, kl_penalty(1.0, "k3") >> return_to_go())
    both = per_position(reverse, THETA, REF, THETA) - per_position(forward, THETA, REF, THETA)
    assert torch.allclose(found[1], torch.autograd.grad(both, THETA)[1], atol=STORED)
