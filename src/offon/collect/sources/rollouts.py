"""Sampling: fresh responses from a model, under the prompt or with guidance, whole or from where another one stands."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from offon.data.render import Renderer
from offon.errors import ConfigError
from offon.parts.collector import Collector
from offon.parts.context import Context, Prompted, Step
from offon.parts.models import SELF, ModelRef
from offon.types import Group, Sampling, Trajectory
from offon.types.trajectory import Tokens


@dataclass(frozen=True)
class Asked:
    """One member to be sampled for a group.

    prefix   what the sampler sees        begun  the response so far, kept as it is (see `Prompted`)
    train    the prefix it is trained under, where that is another one
    """

    prefix: Tokens
    sampling: Sampling
    begun: Trajectory | None = None
    train: Tokens | None = None
    tags: frozenset[str] = frozenset()


def sample(context: Context, wanted: Sequence[tuple[Group, Sequence[Asked]]], model: ModelRef) -> list[Group]:
    """Each group with the members asked for, all sampled at once. They carry the group's views, so that a model may
    read them under any of these; keys and names count from the members a group ever had."""
    step = context.step
    requests = [
        Prompted(asked.prefix, asked.sampling, step.key(group.draw, group.size + index), asked.begun)
        for group, members in wanted
        for index, asked in enumerate(members)
    ]
    sampled = iter(context.generate(requests, model))

    def member(group: Group, asked: Asked) -> Trajectory:
        trajectory = next(sampled)
        train = {} if asked.train is None else {"train": asked.train}
        views = {**trajectory.views, **group.views, "sample": asked.prefix, **train}
        return trajectory.replace(views=views).tagged(*asked.tags)

    return [group.add(*[member(group, asked) for asked in members]) for group, members in wanted]


@dataclass(frozen=True)
class Guidance:
    """What one member is sampled after: a prefix of its own, and perhaps a response that somebody began."""

    prefix: Tokens
    begun: Trajectory | None = None


class Guide(ABC):
    """Help that members of a group are sampled with, as a pure function of (step, group, member)."""

    drop: bool = False  # train under the plain prompt what was sampled with help

    @abstractmethod
    def __call__(self, step: Step, group: Group, member: int, n: int) -> Guidance | None:
        """The help that member number `member` of n is given; None for none."""

    def check(self, prompts: Sequence[Group], render: Renderer) -> None:  # noqa: B027  as of a collector
        """Refuse prompts that have no help to give."""


@dataclass(frozen=True, kw_only=True)
class Rollouts(Collector):
    """n fresh responses per prompt from a model (the learner unless written).

    total        n counts members that are there already: only the rest is sampled
    sampling     how; a stage writes its node's settings here, except those that `fixed` names
    fixed        sampling settings of these members alone: {"temperature": 0.0} for a greedy baseline
    tag          on each of them, for terms and credits that treat them apart
    guide        help that fades: hints, prefixes of demonstrations, text shown beside the prompt

    Every member carries all of its group's views, so that a model may read it under any of them.
    """

    task: Any
    n: int = 1
    total: bool = False
    model: ModelRef = SELF
    guide: Guide | None = None
    tag: str = ""
    fixed: tuple[tuple[str, float], ...] = ()
    sampling: Sampling = Sampling()
    removes = frozenset({"reward", "comparisons"})

    def __post_init__(self):
        if self.n < 1:
            raise ConfigError(f"{self.n} rollouts a prompt", fix="1 or more: a larger group_size, or fewer demos")

    @property
    def samplers(self) -> tuple[ModelRef, ...]:
        return (self.model,)

    @property
    def drops_view(self) -> bool:
        return self.guide is not None and self.guide.drop

    @property
    def effective_sampling(self) -> Sampling:
        return dataclasses.replace(self.sampling, **dict(self.fixed))

    @property
    def provides(self) -> frozenset[str]:
        return frozenset({"members"} | ({"behavior_logp"} if self.effective_sampling.full_softmax else set()))

    def check(self, prompts: Sequence[Group], render: Renderer) -> None:
        if self.guide is not None:
            self.guide.check(prompts, render)

    def __call__(self, context: Context, groups: list[Group]) -> list[Group]:
        def asked(group: Group) -> list[Asked]:
            first = len(group.members) if self.total else 0
            return [self._asked(context.step, group, member) for member in range(first, self.n)]

        return sample(context, [(group, asked(group)) for group in groups], self.model)

    def _asked(self, step: Step, group: Group, member: int) -> Asked:
        tags = {self.tag} if self.tag else set()
        guidance = self.guide(step, group, member, self.n) if self.guide else None
        if guidance is None:
            return Asked(group.prompt, self.effective_sampling, tags=frozenset(tags))
        begun = len(guidance.begun) if guidance.begun is not None else 0
        sampling = self.effective_sampling
        left = dataclasses.replace(sampling, max_tokens=max(1, sampling.max_tokens - begun))
        train = group.prompt if self.guide.drop else None
        return Asked(guidance.prefix, left, guidance.begun, train, frozenset(tags | {"guided"}))

    def __str__(self) -> str:
        words = [
            f"{self.n}{' in total' if self.total else ''} by {self.model}",
            *(f"{name}={value:g}" for name, value in self.fixed),
        ]
        words += [str(self.guide)] if self.guide else []
        return f"rollouts({', '.join([*words, *([self.tag] if self.tag else [])])})"


def rollouts(
    task,
    n: int = 1,
    *,
    total: bool = False,
    model: ModelRef = SELF,
    tag: str = "",
    temperature: float | None = None,
    guide: Guide | None = None,
) -> Rollouts:
    """n responses per prompt by a model. temperature: of these members alone (0 is greedy: a baseline, say)."""
    fixed = () if temperature is None else (("temperature", temperature),)
    return Rollouts(task=task, n=n, total=total, model=model, tag=tag, fixed=fixed, guide=guide)
