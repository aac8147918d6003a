"""From buffers to steps: several passes, buffers that come back short or empty, and what the last one still held."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import pytest

from offon.collect import rollouts, verify
from offon.parts import Clip, Stage, credit, group_mean_std, policy, policy_gradient, proximal
from offon.parts.collector import Collector
from offon.runs import ledger
from offon.types import Sampling
from tests.rounding import FLOAT32
from tests.train.test_learners import TASK, init, run  # noqa: F401  (init is a fixture)


@dataclass(frozen=True)
class Short(Collector):
    """Keeps the first groups of a buffer only, as a refill does that found no more."""

    kept: tuple[int, ...]

    def __call__(self, context, groups):
        return groups[: self.kept[groups[0].draw // 8]]


def stage(*collectors) -> Stage:
    chain = dataclasses.replace(rollouts(TASK, 3), sampling=Sampling(max_tokens=5)) | verify(TASK)
    for collector in collectors:
        chain = chain | collector
    actor = policy(policy_gradient(advantage=credit, ratio=proximal, trust=Clip()), credit=group_mean_std())
    return Stage(chain, actor)


def groups_of_steps(directory) -> list[set[int]]:
    """The draws that each optimizer step consumed."""
    rows = ledger.query(directory, "select step, draw from consumption join trajectories using (id)").to_pylist()
    steps = max(row["step"] for row in rows)
    return [{row["draw"] for row in rows if row["step"] == step} for step in range(1, steps + 1)]


def test_every_pass_sees_every_group_once_and_the_later_ones_in_another_order(tmp_path, init):  # noqa: F811
    runtime = run(tmp_path, stage(), init, steps=6, epochs=3)
    steps = groups_of_steps(tmp_path)
    everything = set(range(8))
    assert [steps[i] | steps[i + 1] for i in (0, 2, 4)] == [everything] * 3
    assert runtime.state.draws == 8, "one buffer"
    assert len({frozenset(step) for step in steps}) > 2


def test_the_proximal_anchor_is_the_learner_when_the_buffer_was_filled(tmp_path, init):  # noqa: F811
    """The ratio is 1 at a buffer's first step, differs from 1 after it, and is 1 again when the next is filled."""
    runtime = run(tmp_path, stage(), init, steps=8, epochs=2, learning_rate=3e-3)
    clipped = [line["ratio/clip_frac"] for line in runtime.node.metrics()]
    ratio = [line["ratio/mean"] for line in runtime.node.metrics()]
    assert [ratio[0], ratio[4]] == pytest.approx([1.0, 1.0], abs=FLOAT32) and clipped[0] == clipped[4] == 0
    assert all(abs(ratio[i] - 1) > 1e-4 for i in (1, 2, 3, 5, 6, 7))


def test_a_short_buffer_is_trained_in_steps_over_what_there_is(tmp_path, init):  # noqa: F811
    """8 asked for, 5 came: a step of 4 and a step of 1; then a full buffer."""
    run(tmp_path, stage(Short((5, 8))), init, steps=4)
    assert [len(step) for step in groups_of_steps(tmp_path)] == [4, 1, 4, 4]


def test_an_empty_buffer_is_one_counted_step_that_trains_nothing(tmp_path, init):  # noqa: F811
    runtime = run(tmp_path, stage(Short((0, 0, 8))), init, steps=4)
    assert (runtime.state.step, runtime.state.skipped_steps, runtime.state.buffer) == (4, 2, 2)
    assert [len(step) for step in groups_of_steps(tmp_path)] == [0, 0, 4, 4]


@pytest.mark.fault("F34")
@pytest.mark.parametrize("stops", [[1], [3]])
def test_short_and_empty_buffers_are_resumed(tmp_path, init, stops):  # noqa: F811
    collectors = Short((0, 5, 8))
    run(tmp_path / "a", stage(collectors), init, steps=4)
    run(tmp_path / "b", stage(collectors), init, steps=4, stops=stops)
    assert groups_of_steps(tmp_path / "a") == groups_of_steps(tmp_path / "b")


def test_what_the_end_of_the_stage_cuts_off_has_a_fate(tmp_path, init):  # noqa: F811
    """Three steps of 4 groups of 3: the second buffer's last 4 groups are never reached."""
    run(tmp_path, stage(), init, steps=3)
    fates = ledger.query(tmp_path, "select fate, count(*) as n from trajectories group by fate order by fate")
    counts = {row["fate"]: row["n"] for row in fates.to_pylist()}
    assert counts["dropped: stage ended"] == 12
    assert sum(counts.values()) == 48
