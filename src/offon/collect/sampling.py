"""Sampling: fresh responses from a model, under the prompt or under a view of it that guides."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from offon.collect.base import Collector
from offon.collect.context import Context, Prompted, Step
from offon.parts.models import SELF, ModelRef
from offon.parts.schedules import Schedule, value_at
from offon.types import Group, Sampling, Trajectory


@dataclass(frozen=True, kw_only=True)
class Hint:
    """Sample under another view of the prompt for a share of the groups, which fades.

    view    the item's view with the hint; items without it are sampled plainly
    amount  share of groups that see it, as a schedule over the stage
    drop    False: trained under the view it was sampled under, exactly on-policy. True: trained under the plain prompt;
            behaviour log-probs stay those of the hinted sampler, so that the ratio across views is the true one, and
            the ledger reports the trajectories as off-policy by conditioning.

    All members of a group see the same view, so that they share a baseline.
    """

    view: str = "hint"
    amount: Schedule = 1.0
    drop: bool = False


@dataclass(frozen=True, kw_only=True)
class Rollouts(Collector):
    """n fresh responses per prompt from a model (the learner unless written)."""

    task: Any
    n: int = 1
    model: ModelRef = SELF
    hint: Hint | None = None
    sampling: Sampling = Sampling()

    @property
    def samplers(self) -> tuple[ModelRef, ...]:
        return (self.model,)

    @property
    def provides(self) -> frozenset[str]:
        exact = {"behavior_logp"} if self.sampling.full_softmax and self.model == SELF else set()
        return frozenset({"members"} | exact)

    def __call__(self, context: Context, groups: list[Group]) -> list[Group]:
        step = context.step
        views = [self._view(step, group) for group in groups]
        requests = [
            Prompted(group.views[view], self.sampling, step.key(group.draw, group.size + member))
            for group, view in zip(groups, views, strict=True)
            for member in range(self.n)
        ]
        sampled = iter(context.generate(requests, self.model))
        return [
            group.add(*(self._trained_under(next(sampled), group, view) for _ in range(self.n)))
            for group, view in zip(groups, views, strict=True)
        ]

    def _view(self, step: Step, group: Group) -> str:
        if self.hint is None or self.hint.view not in group.views:
            return "prompt"
        hinted = step.uniform(group.draw) < value_at(self.hint.amount, step.index, step.steps)
        return self.hint.view if hinted else "prompt"

    def _trained_under(self, trajectory: Trajectory, group: Group, view: str) -> Trajectory:
        if view == "prompt":
            return trajectory
        trajectory = trajectory.tagged("hinted")
        return trajectory.replace(views={**trajectory.views, "train": group.prompt}) if self.hint.drop else trajectory

    def __str__(self) -> str:
        hint = f", hint={self.hint.view}{' dropped' if self.hint.drop else ''}" if self.hint else ""
        return f"rollouts({self.n} by {self.model}{hint})"


def rollouts(task, n: int = 1, *, model: ModelRef = SELF) -> Rollouts:
    return Rollouts(task=task, n=n, model=model)
