"""Running a stage. This file reads like an algorithm box and names no method, source or signal."""

from __future__ import annotations

from offon.errors import Interrupted
from offon.parts.credits.base import without_token_reward
from offon.parts.stage import Learner, Stage
from offon.train.scoring import weigh
from offon.train.state import TrainState
from offon.types import Group
from offon.types.batch import Batch


def run_stage(stage: Stage, runtime: TrainState) -> None:
    """Repeat until the stage's optimizer steps are done:

    collect a buffer         sources and signals; may call models
    for each step of the buffer, for each learner in order:
        on the first step
            annotate         scores without gradient, kept as token signals
            credit           signals become advantages; pure
        weigh                every term's weight column, on the whole step batch
        update               score with gradient, sum the terms over micro-batches, one optimizer step
    """
    state = runtime.restore()
    if runtime.interrupted:
        raise Interrupted(f"interrupted before step {state.step + 1}", kept="all before it; run again with --resume")
    while state.step < runtime.steps:
        if runtime.buffer_is_spent:
            runtime.fill(stage.collect(runtime.context(), runtime.draw()))
        for learner in stage.learners:
            if runtime.buffer_is_fresh:
                runtime.credited(learner, assign_credit(learner, runtime.annotated(learner)))
            runtime.update(learner, weigh(Batch.of(runtime.next_groups(learner)), learner.terms))
        runtime.finish_step()
        if runtime.interrupted:
            runtime.checkpoint()
            raise Interrupted(
                f"interrupted after step {state.step} of {runtime.steps}",
                kept=f"checkpoint-{state.step}; run again with --resume",
            )
    runtime.finish()


def assign_credit(learner: Learner, groups: list[Group]) -> list[Group]:
    """Write the learner's advantage column. Groups too small for its credit are set aside with the reason; the rewards
    of single tokens that its steps pass on are theirs alone."""
    credit = learner.credit
    if credit is None:
        return groups
    enough = [len(group.members) >= credit.min_group for group in groups]
    groups = [
        group if fits else group.drop([False] * len(group.members), "group too small for its credit")
        for group, fits in zip(groups, enough, strict=True)
    ]
    return [group.map(without_token_reward) for group in credit.over_buffer(groups)]
