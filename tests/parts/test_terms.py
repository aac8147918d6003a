"""Terms of heads, of parameters and of margins, and the batch that carries them: by hand, without a model."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from offon.errors import ModelError
from offon.parts import (
    SELF,
    SELF_START,
    Artefact,
    Head,
    LabelCrossEntropy,
    LogProb,
    Need,
    ParameterPenalty,
    Square,
    SquaredError,
    contrast,
    listwise,
    one,
    policy_gradient,
)
from offon.parts.select import select
from offon.train.scoring import step_loss, weigh
from offon.types import Comparison, Group, Item, Source, Span, Trajectory
from offon.types.batch import Batch
from tests.rounding import FLOAT32

NAN = float("nan")


def member(n: int, **fields) -> Trajectory:
    return Trajectory.of([3] * n, [5], Source.EXTERNAL, **fields)


def group(*members, comparisons=()) -> Group:
    return Group(item=Item(id="i", prompt="p"), views={"prompt": (5,)}, members=members, comparisons=comparisons)


def loss_of(term, batch: Batch, scores: dict) -> torch.Tensor:
    loss, metrics = step_loss([term], weigh(batch, [term]), scores, {term.name: 1.0})
    assert all(np.isfinite(total) for total, _ in metrics.values())
    return loss


# --- heads ------------------------------------------------------------------------------------------------------------


def test_a_value_is_trained_where_it_has_a_target():
    """Errors 1 and 2 on the two tokens with a return: (1/2 + 2) / 2. The token without one is not counted."""
    batch = Batch.of([group(member(3).with_token_signals(**{"return": [1.0, NAN, 0.0]}))])
    value = torch.tensor([0.0, 7.0, 2.0], requires_grad=True)
    loss = loss_of(SquaredError(), batch, {Need("value", SELF): value})
    assert loss.item() == pytest.approx(1.25)
    loss.backward()
    assert value.grad.tolist() == pytest.approx([-0.5, 0.0, 1.0])


def test_a_clipped_value_reads_what_it_was_when_the_buffer_was_filled():
    """V 1, R 0, old 0.2, clip 0.3: held at 0.5, but 1 is the worse of the two. R 1: held 0.5 is worse, no gradient."""
    signals = {"return": [0.0, 1.0], Need("value", SELF, when="buffer").column: [0.2, 0.2]}
    batch = Batch.of([group(member(2).with_token_signals(**signals))])
    value = torch.tensor([1.0, 1.0], requires_grad=True)
    term = SquaredError(clip=0.3)
    assert Need("value", SELF, when="buffer") in term.needs
    loss = loss_of(term, batch, {Need("value", SELF): value})
    loss.backward()
    assert loss.item() == pytest.approx((0.5 + 0.125) / 2) and value.grad.tolist() == pytest.approx([0.5, 0.0])


def test_steps_are_labelled_at_their_ends():
    batch = Batch.of([group(member(4).with_token_signals(label=[NAN, 1.0, NAN, 0.25]))])
    score = torch.tensor([9.0, 0.0, 9.0, 0.0], requires_grad=True)
    loss = loss_of(LabelCrossEntropy(), batch, {Need("score", SELF): score})
    loss.backward()
    assert loss.item() == pytest.approx(math.log(2)) and score.grad.tolist() == pytest.approx([0, -0.25, 0, 0.125])


# --- margins ----------------------------------------------------------------------------------------------------------


def pair_batch(*margins) -> Batch:
    """Groups of two answers of 2 and 1 tokens, the second better, by `margins`."""
    return Batch.of([group(member(2), member(1), comparisons=(Comparison(1, 0, m),)) for m in margins])


SCORE = torch.tensor([9.0, 0.5, 2.0, 9.0, 1.0, 1.0])  # read at the last token: 0.5 and 2.0; 1.0 and 1.0


def test_a_reward_model_reads_the_last_token_and_the_margin_of_the_data():
    """-log sigmoid((2 - 0.5) - 1) and -log sigmoid(0 - 0)."""
    loss = loss_of(contrast(score=Head(), beta=1.0, margin="data"), pair_batch(1.0, None), {Need("score", SELF): SCORE})
    assert loss.item() == pytest.approx((math.log1p(math.exp(-0.5)) + math.log(2)) / 2)


def test_a_reward_models_last_token_is_the_last_one_selected():
    """The environment's token after the answer is not read."""
    told = Trajectory.of([3, 3], [5], [Source.EXTERNAL, Source.ENVIRONMENT])
    batch = Batch.of([group(told, member(1), comparisons=(Comparison(0, 1),))])
    loss = loss_of(contrast(score=Head(), beta=1.0), batch, {Need("score", SELF): torch.tensor([1.0, 50.0, 0.0])})
    assert loss.item() == pytest.approx(math.log1p(math.exp(-1.0)))


def test_centring_squares_the_sum_and_undoes_shift_invariance():
    """(0.5 + 2)^2 and (1 + 1)^2; a constant on all scores changes it, and not the contrast."""
    centre = contrast(score=Head(), link=Square(0.0), beta=1.0, of="sum")
    need = Need("score", SELF)
    assert loss_of(centre, pair_batch(0.0, 0.0), {need: SCORE}).item() == pytest.approx((6.25 + 4.0) / 2)
    plain = contrast(score=Head(), beta=1.0)
    shifted = loss_of(plain, pair_batch(0.0, 0.0), {need: SCORE + 3})
    assert shifted.item() == pytest.approx(loss_of(plain, pair_batch(0.0, 0.0), {need: SCORE}).item())


def test_per_prompt_a_ranking_of_three_weighs_as_much_as_a_pair():
    """InstructGPT: all C(3, 2) pairs of one prompt, averaged by 1/3, against one pair of another."""
    three = group(*(member(1) for _ in range(3)), comparisons=(Comparison(0, 1), Comparison(0, 2), Comparison(1, 2)))
    batch = Batch.of([three, group(member(1), member(1), comparisons=(Comparison(0, 1),))])
    weights = {r: contrast(score=LogProb(), reduce=r).weigh(batch).tolist() for r in ("per_prompt", "per_pair")}
    assert weights["per_prompt"] == pytest.approx([1 / 6, 1 / 6, 1 / 6, 1 / 2])
    assert weights["per_pair"] == pytest.approx([1 / 4] * 4)


# --- parameters -------------------------------------------------------------------------------------------------------


def test_a_penalty_by_hand_and_its_importance():
    """1/2 (0.5^2 + 1^2) for L2; with F = (4, 0) 1/2 * 4 * 0.25. The gradient is F (theta - theta*)."""
    own = torch.nn.Parameter(torch.tensor([1.5, -1.0]))
    fixed = torch.nn.Parameter(torch.tensor([8.0]), requires_grad=False)
    start = {"w": torch.tensor([1.0, 0.0]), "embedding": torch.tensor([0.0])}
    plain, ewc = ParameterPenalty(), ParameterPenalty(importance=Artefact("fisher"))
    weights = {plain.needs[0]: {"w": own, "embedding": fixed}, plain.needs[1]: start}
    assert plain.loss(weights).item() == pytest.approx(0.625)
    loss = ewc.loss({**weights, ewc.needs[2]: {"w": torch.tensor([4.0, 0.0])}})
    loss.backward()
    assert loss.item() == pytest.approx(0.5) and own.grad.tolist() == pytest.approx([2.0, 0.0])


def test_an_importance_that_is_negative_somewhere_is_refused_with_how_much_of_it():
    own = torch.nn.Parameter(torch.tensor([1.5, -1.0]))
    ewc = ParameterPenalty(importance=Artefact("model"))
    weights = dict(zip(ewc.needs, ({"w": own}, {"w": own.detach()}, {"w": torch.tensor([4.0, -1e-6])}), strict=True))
    with pytest.raises(ModelError, match="holds no importance") as refused:
        ewc.loss(weights)
    assert "1 of 2" in refused.value.why


def test_a_penalty_is_nothing_where_it_starts_and_says_which_parameter_is_missing():
    penalty = ParameterPenalty()
    own = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
    loss = penalty.loss({penalty.needs[0]: {"w": own}, penalty.needs[1]: {"w": own.detach().clone()}})
    loss.backward()
    assert loss.item() == 0 and not own.grad.any()
    with pytest.raises(ModelError, match="no parameter 'w'"):
        penalty.loss({penalty.needs[0]: {"w": own}, penalty.needs[1]: {}})


def test_a_penalty_is_added_once_however_the_batch_is_split():
    from offon.parts import policy
    from offon.train.optimizer_step import accumulate
    from tests.support import World, demonstrations, model

    world = World(model(0), {"start": model(3)})
    learner = policy(policy_gradient(advantage=one), ParameterPenalty(coef=0.1))

    def gradient(max_tokens):
        world.learner.hf.zero_grad()
        batch = weigh(Batch.of(demonstrations()), learner.terms)
        assert set(batch.weights) == {"policy_gradient"}
        metrics = accumulate(world, learner, batch, {t.name: float(t.coef) for t in learner.terms}, max_tokens)
        assert metrics["loss/parameter_penalty"][0] > 0
        return torch.cat([p.grad.flatten() for p in world.learner.train_parameters().values()])

    assert torch.allclose(gradient(None), gradient(1), atol=FLOAT32)
    assert Need("parameters", SELF_START, when="step") in learner.needs


# --- the batch --------------------------------------------------------------------------------------------------------


def test_right_and_wrong_are_what_was_rewarded():
    rewarded = [member(1, signals={"reward": r}) for r in (1.0, 0.4, None)]
    batch = Batch.of([group(*rewarded, member(1))])
    assert select(batch, "right").tolist() == [True, False, False, False]
    assert select(batch, "wrong").tolist() == [False, True, False, False]


def test_a_turn_is_a_span_by_number():
    spans = (Span("turn", 0, 1), Span("step", 0, 3), Span("turn", 2, 4))
    batch = Batch.of([group(member(4, spans=spans), member(2))])
    assert select(batch, "turn:1").tolist() == [False, False, True, True, False, False]
    assert not select(batch, "turn:2").any()


def test_units_of_every_kind_survive_a_split():
    groups = [group(member(1), member(2), comparisons=(Comparison(0, 1, 0.5),)) for _ in range(3)]
    batch = Batch.of(groups)
    weights = {"token": 9, "sequence": 6, "pair": 3, "group": 3}
    weights = {unit: torch.arange(1.0, n + 1, dtype=torch.float64) for unit, n in weights.items()}
    parts = batch.with_weights(weights, {unit: unit for unit in weights}).split(1)
    assert [part.n_groups for part in parts] == [1, 1, 1]
    for unit, weight in weights.items():
        assert torch.equal(torch.cat([part.weights[unit] for part in parts]), weight)
    assert torch.equal(torch.cat([part.margins for part in parts]), batch.margins)


def test_a_group_whose_unit_is_the_group_is_never_parted():
    batch = Batch.of([group(member(3), member(3), member(3)), group(member(3), member(3))])
    weighed = batch.with_weights({"g": torch.ones(2, dtype=torch.float64)}, {"g": "group"})
    assert [part.n_sequences for part in weighed.split(1)] == [3, 2]
    assert [part.n_sequences for part in batch.split(1)] == [1] * 5


def test_trained_are_the_sequences_of_units_with_weight():
    batch = Batch.of([group(member(1), member(2), comparisons=(Comparison(0, 1),)), group(member(1)), group(member(2))])
    zeros = {"token": 6, "sequence": 4, "pair": 1, "group": 3}

    def trained(unit, index):
        weight = torch.zeros(zeros[unit], dtype=torch.float64)
        weight[index] = 1.0
        return batch.with_weights({"t": weight}, {"t": unit}).trained()

    assert (trained("token", 2), trained("sequence", 2), trained("pair", 0), trained("group", 2)) == (
        [1], [2], [0, 1], [3],
    )  # fmt: skip


def test_groups_without_members_leave_the_numbering():
    batch = Batch.of([group(), group(member(1), member(1), comparisons=(Comparison(0, 1),))])
    assert batch.group.tolist() == [0, 0] and batch.n_groups == 1
    assert listwise().weigh(batch).tolist() == [1.0]


def test_an_empty_batch_has_no_groups_and_splits_into_nothing():
    batch = Batch.of([group()])
    assert (batch.n_groups, batch.trained(), batch.split(1)) == (0, [], [])
