"""Preference rows: identities between them, limits, hand numbers, what is detached."""

from __future__ import annotations

import functools
import math

import pytest
import torch

from offon.catalogue import registry
from offon.collect import mismatched
from offon.parts import SELF, SELF_START, Need
from offon.train.scoring import prepare, score, step_loss, weigh
from offon.types import Comparison, Group, Item, Source, Trajectory
from offon.types.batch import Batch
from tests.catalogue.cases import context
from tests.catalogue.test_contract import difference, gradient
from tests.rounding import FLOAT32, FLOAT32_SUM, FLOAT64
from tests.support import World, labelled_responses, model, preference_pairs, ranked_responses

started = functools.cache(lambda: World(model(0), {"start": model(0)}))
moved = functools.cache(lambda: World(model(0), {"start": model(3)}))
OWN, START = Need("logp", SELF), Need("logp", SELF_START)


def learner(name: str, data=None, **arguments):
    (found,) = registry.get(name).function(data=data or preference_pairs(), **arguments).learners
    return found


def of(name: str, world=None, data=None, **arguments) -> dict[str, torch.Tensor]:
    return gradient(learner(name, **arguments), data or preference_pairs(), world or moved())


def loss_of(learner, groups, world) -> float:
    batch = prepare(world, learner.terms, weigh(Batch.of(groups), learner.terms), None)
    coefficients = {term.name: float(term.coef) for term in learner.terms}
    loss, _ = step_loss(learner.terms, batch, score(world, batch, learner.needs), coefficients)
    return loss.item()


def scaled(gradients, factor: float) -> dict[str, torch.Tensor]:
    return {name: factor * g for name, g in gradients.items()}


# --- pairs ------------------------------------------------------------------------------------------------------------


def test_smoothing_and_robustness_of_0_are_dpo():
    assert difference(of("cdpo", smoothing=0.0), of("dpo")) < FLOAT32
    assert difference(of("robust_dpo", flipped=0.0), of("dpo")) < FLOAT32
    assert difference(of("gpo", link="logistic"), of("dpo")) < FLOAT32


def test_robust_dpo_on_flipped_labels_is_dpo_on_the_true_ones():
    """(1 - e) L(pairs) + e L(swapped pairs) = DPO(pairs), gradient for gradient."""
    swapped = [g.replace(comparisons=(Comparison(1, 0),)) for g in preference_pairs()]
    straight, turned = of("robust_dpo", flipped=0.2), of("robust_dpo", data=swapped, flipped=0.2)
    mixed = {name: 0.8 * straight[name] + 0.2 * turned[name] for name in straight}
    assert difference(mixed, of("dpo")) < FLOAT32_SUM


def test_every_link_starts_in_the_same_direction():
    """At pi = ref h is 0, and gradients differ by f'(0) alone: the learning rate's business."""
    base = of("gpo", started(), link="logistic")
    slopes = {"square": 4.0, "hinge": 2.0, "exponential": 2.0, "truncated_square": 4.0, "savage": 0.5}
    for link, factor in slopes.items():
        assert difference(of("gpo", started(), link=link), scaled(base, factor)) < 1e-3, link


def test_at_the_start_losses_are_those_of_a_margin_of_0():
    at_start = {"dpo": math.log(2), "cdpo": math.log(2), "robust_dpo": math.log(2), "ipo": 25.0, "gpo": 1.0}
    for name, expected in at_start.items():
        assert loss_of(learner(name), preference_pairs(), started()) == pytest.approx(expected, abs=FLOAT32_SUM), name


def test_a_small_beta_gives_the_unweighted_difference_and_a_large_one_the_hinge_of_wrong_pairs():
    """L = log 2 - h / 2 + O(h^2); and softplus(-h) / beta tends to max(0, -(u_w - u_l))."""
    pairs = preference_pairs()
    batch = weigh(Batch.of(pairs), learner("dpo").terms)
    scores = score(moved(), batch, learner("dpo").needs)
    sums = torch.zeros(batch.n_sequences).index_add(0, batch.sequence, (scores[OWN] - scores[START]).detach())
    d = sums[batch.pairs[:, 0]] - sums[batch.pairs[:, 1]]
    small = loss_of(learner("dpo", beta=1e-3), pairs, moved())
    assert (small - math.log(2)) / 1e-3 == pytest.approx(float(-d.mean() / 2), rel=1e-2)
    large = loss_of(learner("dpo", beta=1e4), pairs, moved())
    assert large / 1e4 == pytest.approx(float((-d).clamp(min=0).mean()), rel=1e-3)


def shortened(group, n: int):
    return group.map(lambda m: m.replace(tokens=m.tokens[:n], source=m.source[:n], scaffold=m.scaffold[:n]))


def by_hand(name: str, winner: float, loser: float, **arguments) -> tuple[float, list[float]]:
    """(loss, gradient by the two summed log-ratios) of one pair of one-token answers, reference log-probs 0."""
    one_token = [shortened(g, 1) for g in preference_pairs()[:1]]
    terms = learner(name, data=one_token, **arguments).terms
    batch = weigh(Batch.of(one_token), terms)
    logp = torch.tensor([winner, loser], requires_grad=True, dtype=torch.float64)
    scores = {OWN: logp, START: torch.zeros(2, dtype=torch.float64)}
    loss, _ = step_loss(terms, batch, scores, {t.name: float(t.coef) for t in terms})
    return loss.item(), torch.autograd.grad(loss, logp)[0].tolist()


def test_ipo_is_lowest_at_half_over_tau():
    for normalise in ("none", "length"):  # one token: sums are means
        loss, slope = by_hand("ipo", -1.0, -6.0, tau=0.1, normalise=normalise)  # difference 5 = 1 / 0.2
        assert loss == pytest.approx(0.0) and slope == pytest.approx([0.0, 0.0])
        loss, slope = by_hand("ipo", -1.0, -3.0, tau=0.1, normalise=normalise)
        assert loss == pytest.approx(9.0) and slope == pytest.approx([-6.0, 6.0])


def test_ipo_is_the_square_link_times_a_constant():
    """(1 - beta d)^2 = 4 tau^2 (1/(2 tau) - d)^2 with beta = 2 tau."""
    assert difference(of("gpo", link="square", beta=0.2), scaled(of("ipo", tau=0.1), 4 * 0.1**2)) < FLOAT32


def test_slic_is_satisfied_beyond_delta_but_for_the_target():
    loss, slope = by_hand("slic", -1.0, -3.0, delta=1.0, coef=0.5)  # margin 2 > 1: only -0.5 S_w is left
    assert loss == pytest.approx(0.5) and slope == pytest.approx([-0.5, 0.0])
    loss, slope = by_hand("slic", -3.0, -1.0, delta=1.0, coef=0.5)
    assert loss == pytest.approx(3.0 + 1.5) and slope == pytest.approx([-1.5, 1.0])


def test_orpo_by_hand():
    """p 0.5 and 0.2: odds 1 and 1/4, log-odds ratio log 4, loss log 1.25; slope by lp_w -sigma(-x) / (1 - p)."""
    lp = [math.log(0.5), math.log(0.2)]
    loss, slope = by_hand("orpo", *lp, coef=0.1)
    assert loss == pytest.approx(math.log(2) + 0.1 * math.log(1.25))
    assert slope == pytest.approx([-1 - 0.1 * 0.2 / 0.5, 0.1 * 0.2 / 0.8])


def test_orpo_without_its_coefficient_is_sft_on_the_chosen():
    chosen = [g.drop([True, False], "rejected") for g in preference_pairs()]
    (sft,) = registry.get("sft").function(data=chosen).learners
    row = learner("orpo", coef=0.0)
    batch = weigh(Batch.of(preference_pairs()), row.terms)
    scores = score(moved(), batch, row.needs)
    loss, _ = step_loss(row.terms, batch, scores, {"nll": 1.0, "contrast": 0.0})
    assert loss.item() == pytest.approx(loss_of(sft, chosen, moved()), rel=FLOAT32)


def test_simpo_by_hand():
    """beta 2, gamma 0.5, mean log-probs -1 and -2: h = 2 - 0.5; slopes -+ 2 sigmoid(-1.5)."""
    loss, slope = by_hand("simpo", -1.0, -2.0)
    assert loss == pytest.approx(math.log1p(math.exp(-1.5)))
    assert slope == pytest.approx([-2 / (1 + math.exp(1.5)), 2 / (1 + math.exp(1.5))])


def test_simpo_without_a_margin_on_equal_lengths_is_dpo_without_a_reference():
    """All answers of n = 2 tokens: beta (a_w - a_l) = (beta / n) (S_w - S_l), which is cpo's margin."""
    two = [shortened(g, 2) for g in preference_pairs()]
    cpo = learner("cpo", nll=0.0, beta=0.3)
    simpo = gradient(learner("simpo", gamma=0.0, beta=0.6), two, moved())
    assert difference(simpo, gradient(cpo, two, moved())) < FLOAT32


def test_cpo_is_dpo_where_the_reference_is_indifferent():
    """A reference that gives every sequence the same log-prob leaves S_w - S_l."""
    terms = (learner("dpo").terms[0], learner("cpo", nll=0.0).terms[0])
    batch = weigh(Batch.of(preference_pairs()), terms[:1])
    logp = torch.randn(batch.n_tokens, generator=torch.Generator().manual_seed(0))
    flat = -3.0 / torch.bincount(batch.sequence)[batch.sequence]
    losses = [term.units(batch, {OWN: logp, START: flat})[0] for term in terms]
    assert torch.allclose(*losses, atol=FLOAT32)


def test_a_constant_on_both_answers_changes_nothing():
    (term,) = learner("dpo").terms
    batch = weigh(Batch.of(preference_pairs()), [term])
    logp, ref = torch.randn(batch.n_tokens), torch.randn(batch.n_tokens)
    shift = 2.0 / torch.bincount(batch.sequence)[batch.sequence]
    shifted = term.units(batch, {OWN: logp + shift, START: ref})[0]
    assert torch.allclose(shifted, term.units(batch, {OWN: logp, START: ref})[0], atol=FLOAT32)


COEFFICIENTS = {  # methods.md 1.3b: A on the chosen of one-token answers, from h or d
    "dpo": ({}, lambda d: 0.1 * sigma(-0.1 * d)),
    "cdpo": ({"smoothing": 0.2}, lambda d: 0.1 * (0.8 - sigma(0.1 * d))),
    "robust_dpo": ({"flipped": 0.2}, lambda d: 0.1 * (0.8 * sigma(-0.1 * d) + 0.2 * sigma(0.1 * d)) / 0.6),
    "ipo": ({}, lambda d: -2 * (d - 5)),
    "gpo": ({"link": "hinge"}, lambda d: 0.1 * (0.1 * d < 1)),
    "simpo": ({}, lambda d: 2 * sigma(-(2 * d - 0.5))),
    "cpo": ({"nll": 0.0}, lambda d: 0.1 * sigma(-0.1 * d)),
}


def sigma(x: float) -> float:
    return 1 / (1 + math.exp(-x))


@pytest.mark.parametrize("name", COEFFICIENTS)
@pytest.mark.parametrize("d", [-30.0, -1.5, 0.0, 0.7, 12.0])
def test_bridge_a_every_pairwise_loss_is_a_policy_gradient_with_a_coupled_advantage(name, d):
    arguments, advantage = COEFFICIENTS[name]
    _, (chosen, rejected) = by_hand(name, d - 40.0, -40.0, **arguments)
    assert -chosen == pytest.approx(advantage(d), abs=FLOAT64) and rejected == pytest.approx(advantage(d), abs=FLOAT64)


# --- labels -----------------------------------------------------------------------------------------------------------


def labelled(name: str, **arguments):
    """(learner, groups as the row's collectors give them)."""
    stage = registry.get(name).function(data=labelled_responses(), **arguments).validate()
    return stage.learners[0], stage.collect(context(), labelled_responses())


def test_kto_starts_at_half_its_weights():
    """pi = ref: u = z0 = 0 and 1 - sigmoid(0) = 1/2. 1.5 on desirable answers, 1 on the others."""
    learner, groups = labelled("kto", desirable=1.5)
    good = sum("desirable" in m.tags for g in groups for m in g.members) / len(groups)
    assert loss_of(learner, groups, started()) == pytest.approx(0.5 * (1.5 * good + 1 - good), abs=FLOAT32)


def test_kto_at_z0_pushes_with_beta_over_4():
    """d/du lambda (1 - sigmoid(beta (u - z0))) at u = z0 is -beta lambda / 4; no gradient through z0."""
    (term,) = labelled("kto")[0].terms
    groups = labelled_responses()
    batch = weigh(Batch.of(groups), [term]).with_constants({"unpaired/z": 0.0})
    logp = torch.zeros(batch.n_tokens, requires_grad=True)
    units, _ = term.units(batch, {OWN: logp, START: torch.zeros(batch.n_tokens)})
    (slope,) = torch.autograd.grad(units.sum(), logp)
    good = torch.tensor(["desirable" in t.tags for t in batch.trajectories])[batch.sequence]
    assert torch.allclose(slope, torch.where(good, -0.1 / 4, 0.1 / 4))


def test_kto_z0_is_the_mean_over_mismatched_answers_and_never_negative():
    learner, groups = labelled("kto")
    world = moved()
    batch = weigh(Batch.of(groups), learner.terms)
    batch = prepare(world, learner.terms, batch, None)
    scores = score(world, batch, learner.needs)
    u = torch.zeros(batch.n_sequences).index_add(0, batch.sequence, (scores[OWN] - scores[START]).detach())
    mismatched = torch.tensor(["mismatched" in t.tags for t in batch.trajectories])
    assert batch.constants["unpaired/z"] == pytest.approx(max(float(u[mismatched].mean()), 0.0), rel=FLOAT32)
    turned = World(model(3), {"start": model(0)})
    values = [
        prepare(w, learner.terms, weigh(Batch.of(groups), learner.terms), None).constants for w in (world, turned)
    ]
    assert min(v["unpaired/z"] for v in values) == 0.0 < max(v["unpaired/z"] for v in values)


def test_mismatched_answers_are_other_prompts_answers_and_are_never_trained():
    learner, groups = labelled("kto")
    for group in groups:
        own, other = group.members
        assert other.prefix() == group.prompt and not other.trainable.any() and other.tags == {"mismatched"}
    batch = weigh(Batch.of(groups), learner.terms)
    assert all("mismatched" not in batch.trajectories[i].tags for i in batch.trained())
    assert len({g.members[1].tokens.tobytes() for g in groups}) == len({g.members[0].tokens.tobytes() for g in groups})


def test_no_mismatched_answer_is_one_of_its_new_prompts_own():
    """Two rows of every prompt side by side, then one whose answer is everybody's: nothing before it can be taken."""

    def row(prompt, answer):
        member = Trajectory.of(answer, prompt, Source.EXTERNAL, id=f"{prompt}/{answer}")
        return Group(item=Item(id=str(prompt), prompt=str(prompt)), views={"prompt": prompt}, members=(member,))

    pairs = [row((p,), [10 * p + a, 1]) for p in (3, 4, 5) for a in (0, 1)]
    made = mismatched()(None, pairs)
    assert [other.tokens[0] for _, other in (g.members for g in made)] == [51, 51, 31, 31, 41, 41]
    shared = [row((3,), [7, 1]), row((4,), [7, 1]), row((5,), [8, 1])]
    made = mismatched()(None, shared)
    assert [[m.tokens[0] for m in group.members] for group in made] == [[7, 8], [7, 8], [8, 7]]
    alone = [row((3,), [7, 1]), row((3,), [8, 1])]
    assert mismatched()(None, alone) == alone


def test_an_answer_that_replay_left_alone_has_no_other_prompt_and_z0_is_zero():
    """No mean over no answers: the KL is taken to be 0 for that step, and the loss at the start is 0.5 as ever."""
    kto = registry.get("kto").function(data=labelled_responses())
    assert kto.least == 2
    alone = labelled_responses()[:1]
    assert kto.collect(context(), alone) == alone
    batch = prepare(moved(), kto.main.terms, weigh(Batch.of(alone), kto.main.terms), None)
    assert batch.constants["unpaired/z"] == 0.0
    assert loss_of(kto.main, alone, started()) == pytest.approx(0.5)


@pytest.mark.parametrize("name", ["kto", "bco"])
def test_what_is_read_of_the_whole_step_does_not_depend_on_micro_batches(name):
    learner, groups = labelled(name)
    whole = gradient(learner, groups, moved())
    for max_tokens in (1, 20, 45):
        assert difference(gradient(learner, groups, moved(), max_tokens=max_tokens), whole) < FLOAT32


def test_bco_starts_at_log_two():
    learner, groups = labelled("bco")
    assert loss_of(learner, groups, started()) == pytest.approx(math.log(2), abs=FLOAT32)


def test_bco_by_hand():
    """Rewards 0.3 (good) and -0.1 (bad), delta 0.1: -log sigmoid(0.2) twice."""
    (term,) = labelled("bco", beta=1.0)[0].terms
    groups = [shortened(g, 1) for g in labelled_responses()[:2]]
    batch = weigh(Batch.of(groups), [term])
    own, zero = torch.tensor([0.3, -0.1], requires_grad=True), torch.zeros(2)
    step = [Need("logp", m, when="step") for m in (SELF, SELF_START)]
    batch = term.prepare(batch, dict(zip(step, (own.detach(), zero), strict=True)))
    units, _ = term.units(batch, {OWN: own, START: zero})
    assert batch.constants["unpaired/z"] == pytest.approx(0.1)
    assert units.tolist() == pytest.approx([math.log1p(math.exp(-0.2))] * 2)
    (slope,) = torch.autograd.grad(units.sum(), own)
    assert slope.tolist() == pytest.approx([-sigma(-0.2), sigma(-0.2)])


# --- rankings ---------------------------------------------------------------------------------------------------------


def test_a_ranking_of_two_is_dpo():
    pairs = preference_pairs()
    ranked = gradient(learner("plackett_luce", data=pairs), pairs, moved())
    assert difference(ranked, of("dpo")) < FLOAT32


def test_rankings_follow_the_comparisons_not_the_order_of_members():
    groups = ranked_responses()
    turned = [
        g.replace(
            members=g.members[::-1],
            comparisons=tuple(
                Comparison(len(g.members) - 1 - c.winner, len(g.members) - 1 - c.loser) for c in g.comparisons
            ),
        )
        for g in groups
    ]
    row = learner("plackett_luce", data=groups)
    assert difference(gradient(row, turned, moved()), gradient(row, groups, moved())) < FLOAT32


def test_per_choice_gives_long_rankings_the_weight_of_short_ones():
    groups = ranked_responses()
    batch = weigh(Batch.of(groups), learner("plackett_luce", data=groups, reduce="per_choice").terms)
    expected = [1 / (len(groups) * (len(g.members) - 1)) for g in groups]
    assert batch.weights["listwise"].tolist() == pytest.approx(expected)


def test_a_ranking_is_never_split_over_micro_batches():
    groups = ranked_responses()
    row = learner("plackett_luce", data=groups)
    assert difference(gradient(row, groups, moved(), max_tokens=1), gradient(row, groups, moved())) < FLOAT32
