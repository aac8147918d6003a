"""How off-policy a stage was is read from its tokens: age, conditioning, sampler gap, and the regime in one word."""

from __future__ import annotations

import pytest
import torch

from offon.catalogue import registry
from offon.collect import Hint, Pipe, Rollouts, rollouts, verify
from offon.parts import Fade
from offon.parts.context import permuted
from offon.pipeline.stage_report.metrics import provenance
from offon.types import Verdict
from tests.catalogue.test_contract import context
from tests.rounding import FLOAT32
from tests.support import ParityTask, prompt_group
from tests.train.test_resume import models, run  # noqa: F401  (models is a fixture)


def off_policy(tmp_path, models, **changes):  # noqa: F811
    runtime = run(tmp_path / "run", models, "raft", {"group_size": 4}, {"steps": 4, **changes}, stops=[])
    return provenance(runtime.state.off_policy)


def test_a_buffer_used_at_once_is_on_policy(tmp_path, models):  # noqa: F811
    numbers, regime = off_policy(tmp_path, models)
    assert regime == "on-policy" and numbers["mean_age"] == 0 and numbers["sampler_gap_nats"] < FLOAT32


def test_a_buffer_of_two_steps_ages_by_half_a_step_on_average(tmp_path, models):  # noqa: F811
    """Steps 0 and 2 train fresh samples, steps 1 and 3 samples one update old: about half of all tokens."""
    numbers, regime = off_policy(tmp_path, models, prompts_per_buffer=8, prompts_per_step=4)
    assert regime == "mixed" and 0.3 < numbers["mean_age"] < 0.7


def test_external_tokens_are_off_policy_and_have_no_age():
    numbers, regime = provenance({"tokens": 100})
    assert regime == "off-policy" and numbers["mean_age"] is None


def test_a_sampler_away_from_the_learner_is_not_on_policy():
    sums = {"tokens": 10, "own_tokens": 10, "on_policy": 10, "sync/gap_nats/sum": 0.5, "sync/gap_nats/count": 10}
    assert provenance(sums)[1] == "off-policy"


def test_a_dropped_hint_is_off_policy_by_conditioning():
    sums = {"tokens": 10, "own_tokens": 10, "conditioned": 10, "on_policy": 0}
    numbers, regime = provenance(sums)
    assert numbers["conditioned_share"] == 1 and regime == "off-policy"


@pytest.mark.parametrize("drop", [False, True])
def test_hints_are_condition_never_target_and_fade(drop):
    """All groups see the hint at the start, none after the fade; the hint is in the prefix, not in the response."""
    groups = [prompt_group(item).replace(draw=i) for i, item in enumerate(ParityTask().items("train"))]
    stage = registry.get("hints").function(registry.get("grpo").function(ParityTask(), group_size=2), drop=drop)
    hinted = stage.collect(context(), groups)
    for group in hinted:
        for member in group.members:
            assert member.prefix("sample") == group.views["hint"]
            assert member.prefix("train") == (group.prompt if drop else group.views["hint"])
    never = Hint(view="hint", amount=Fade(0.0, 0.0), drop=drop)
    plain = Pipe((Rollouts(task=ParityTask(), n=2), verify(ParityTask()))).replace(Rollouts, guide=never)
    assert all(m.prefix("sample") == g.prompt for g in plain(context(), groups) for m in g.members)


def test_rollouts_after_rollouts_are_other_samples_with_other_names():
    """A group of learner's and teacher's answers: neither their randomness nor their ids may coincide."""
    groups = [prompt_group(item).replace(draw=i) for i, item in enumerate(ParityTask().items("train"))]
    twice = (rollouts(ParityTask(), 3) | rollouts(ParityTask(), 3))(context(), groups)
    assert all(len({member.id for member in group.members}) == 6 for group in twice)
    firsts, seconds = ([m.tokens.tolist() for g in twice for m in g.members[part]] for part in (slice(3), slice(3, 6)))
    assert firsts != seconds


def test_a_batch_without_a_gradient_moves_nothing_whatever_the_momentum(tmp_path, models, monkeypatch):  # noqa: F811
    """Two steps that learn, then two in which every group has equal rewards: weights stay where they were."""
    verify_parity, calls = ParityTask.verify, []

    def verify_then_fail(task, pairs):
        calls.append(len(pairs))
        return verify_parity(task, pairs) if len(calls) <= 2 else [Verdict(0.0) for _ in pairs]

    def weights(steps):
        calls.clear()
        directory = tmp_path / str(steps)
        runtime = run(directory, models, "grpo", {"group_size": 4}, {"steps": steps}, stops=[])
        return runtime.state.skipped_steps, {name: p.detach() for name, p in runtime.parameters["policy"].items()}

    monkeypatch.setattr(ParityTask, "verify", verify_then_fail)
    (skipped_2, after_2), (skipped_4, after_4) = weights(2), weights(4)
    assert (skipped_2, skipped_4) == (0, 2)
    assert all(torch.equal(after_2[name], after_4[name]) for name in after_2)


def test_partial_credit_is_no_success(tmp_path, models, monkeypatch):  # noqa: F811
    """Equal rewards of 0.5 are a group that teaches nothing, not a prompt that is solved."""
    monkeypatch.setattr(ParityTask, "verify", lambda task, pairs: [Verdict(0.5) for _ in pairs])
    runtime = run(tmp_path / "run", models, "grpo", {"group_size": 3}, {"steps": 1}, stops=[])
    assert (runtime.state.groups["all_fail"], runtime.state.groups["all_pass"]) == (4, 0)
    (line,) = runtime.node.metrics()
    assert line["frac_reward_zero_std"] == 1


def test_the_data_order_is_a_fresh_permutation_of_every_pass():
    first, second = ([permuted(10, 7, draw) for draw in range(start, start + 10)] for start in (0, 10))
    assert sorted(first) == sorted(second) == list(range(10)) and first != second
    assert first == [permuted(10, 7, draw) for draw in range(10)]
