"""Impossible combinations are refused before anything loads, with the way out; batches and selectors by hand."""

from __future__ import annotations

import pytest
import torch

from offon.catalogue import registry
from offon.collect import demonstrations as from_data
from offon.collect import keep_best, rollouts, verify
from offon.errors import ConfigError
from offon.parts import Stage, Updates, behavior, credit, group_mean_std, one, policy, policy_gradient
from offon.parts.select import both, either, select
from offon.types import Comparison, Group, Item, Source, Trajectory
from offon.types.batch import Batch
from tests.support import demonstrations, preference_pairs


def refused(stage: Stage) -> str:
    with pytest.raises(ConfigError) as error:
        stage.validate()
    return str(error.value)


def test_a_ratio_on_external_data_is_refused():
    text = refused(Stage(from_data([]), policy(policy_gradient(advantage=one, ratio=behavior))))
    assert "behavior_logp" in text and "rollouts" in text


def test_a_group_baseline_without_a_verdict_is_refused():
    learner = policy(policy_gradient(advantage=credit), credit=group_mean_std())
    assert "verify" in refused(Stage(rollouts(None, 4), learner))


def test_an_advantage_nobody_computes_is_refused():
    assert "advantage" in refused(Stage(rollouts(None, 4) | verify(None), policy(policy_gradient(advantage=credit))))


def test_filtering_before_verifying_is_refused():
    assert "reward" in refused(Stage(rollouts(None, 4) | keep_best(), policy(policy_gradient(advantage=one))))


def test_a_truncated_sampler_cannot_feed_a_ratio():
    from offon.train.build import build_stage
    from offon.types import Sampling

    with pytest.raises(ConfigError, match="behavior_logp"):
        build_stage("grpo", {"task": "task"}, {}, [], Sampling(top_p=0.9))


def test_hints_need_rollouts():
    with pytest.raises(ConfigError, match="rollouts"):
        registry.get("hints").function(registry.get("sft").function([]))


@pytest.mark.parametrize(
    "updates, words",
    [
        ({"prompts_per_step": 6, "prompts_per_buffer": 16}, "use 12 or 18"),
        ({"prompts_per_step": 0}, "prompts_per_step is 0"),
        ({"prompts_per_step": 4, "prompts_per_buffer": 16, "epochs": 2, "max_age": 3}, "age 7"),
    ],
)
def test_batch_words_that_disagree_are_refused_with_the_numbers(updates, words):
    with pytest.raises(ConfigError, match=words):
        Updates(**updates)


def test_a_buffer_gives_epochs_times_its_share_of_steps():
    assert Updates(prompts_per_step=4, prompts_per_buffer=16, epochs=3).steps_per_buffer == 12


def trajectory(tokens, source, tags=()):
    return Trajectory.of(tokens, [5], source, tags=frozenset(tags))


def group(*members, comparisons=()):
    return Group(item=Item(id="i", prompt="p"), views={"prompt": (5,)}, members=members, comparisons=comparisons)


def test_selector_words():
    mixed = [Source.EXTERNAL, Source.ENVIRONMENT, Source.LEARNER]
    batch = Batch.of([group(trajectory([1, 2, 3], mixed, ["chosen"]), trajectory([4], Source.TEACHER))])
    assert select(batch, "trainable").tolist() == [True, False, True, True]
    assert select(batch, "learner").tolist() == [False, False, True, False]
    assert select(batch, "!learner").tolist() == [True, False, False, True]
    assert select(batch, "tag:chosen & external").tolist() == [True, False, False, False]
    assert select(batch, "tag:chosen & external | learner").tolist() == [True, False, True, False]
    assert select(batch, "!trainable | !learner").tolist() == select(batch, either("!learner", "!learner")).tolist()
    either_chosen = both("learner | external", "tag:chosen")
    assert select(batch, either_chosen).tolist() == select(batch, "tag:chosen & !teacher").tolist()
    assert either("learner", "trainable") == "trainable"
    with pytest.raises(ConfigError, match="chosne"):
        select(batch, "chosne")


def test_scaffold_tokens_are_never_selected():
    member = Trajectory.of([1, 2], [5], Source.EXTERNAL, scaffold=[True, False])
    assert select(Batch.of([group(member)]), "trainable").tolist() == [False, True]


def test_a_micro_batch_keeps_weights_and_whole_pairs():
    batch = Batch.of(preference_pairs()[:3])
    n = batch.n_tokens
    batch = batch.with_weights(
        {"t": torch.arange(n, dtype=torch.float64), "c": torch.tensor([0.1, 0.2, 0.3])}, {"c": "pair"}
    )
    parts = batch.split(1)
    assert len(parts) == 3 and all(part.pairs.tolist() == [[0, 1]] for part in parts)
    assert torch.cat([part.weights["t"] for part in parts]).tolist() == list(range(n))
    assert torch.cat([part.weights["c"] for part in parts]).tolist() == pytest.approx([0.1, 0.2, 0.3])


def test_a_split_counts_each_distinct_prefix_once():
    """Groups of a 1-token prompt with 2 + 3 response tokens cost 6: two fit into 12, three do not."""
    members = (trajectory([1, 2], Source.LEARNER), trajectory([1, 2, 3], Source.LEARNER))
    batch = Batch.of([group(*members) for _ in range(4)])
    assert [part.n_sequences for part in batch.split(12)] == [4, 4]
    assert [part.n_sequences for part in batch.split(18)] == [6, 2]


def test_dropping_a_member_keeps_the_reason_and_drops_its_comparisons():
    members = [trajectory([i + 1], Source.LEARNER) for i in range(3)]
    dropped = group(*members, comparisons=(Comparison(0, 2), Comparison(1, 2))).drop([False, True, True], "too long")
    assert [reason for _, reason in dropped.dropped] == ["too long"]
    assert [(c.winner, c.loser) for c in dropped.comparisons] == [(0, 1)]


def test_a_trajectory_with_columns_of_other_lengths_is_refused():
    with pytest.raises(ValueError, match="2 tokens.*behavior_logp.*3"):
        Trajectory.of([1, 2], [5], Source.LEARNER, behavior_logp=[0.0, 0.0, 0.0])


def test_terms_of_one_name_get_weight_columns_of_their_own():
    learner = policy(policy_gradient(advantage=one), policy_gradient(advantage=one, on="learner"))
    assert [term.name for term in learner.terms] == ["policy_gradient", "policy_gradient_2"]
    assert len(demonstrations()) > 0
