"""How well a model expects what is already written: signals for selecting data."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from offon.errors import ModelError
from offon.parts.collector import Collector
from offon.parts.context import Context
from offon.parts.models import SELF, ModelRef, Need
from offon.types import Group, Trajectory

ALONE = "alone"  # the view of a response without its prompt


@dataclass(frozen=True)
class MeanLogp(Collector):
    """The mean log-prob (nats) of a response's trained tokens under a model and view, as a signal.

    A token at the same position of the response counts in every view, so that numbers of two views compare.
    """

    model: ModelRef = SELF
    view: str = "train"
    requires = frozenset({"members"})

    @property
    def needs(self) -> tuple[Need, ...]:
        return (Need("logp", self.model, self.view, "buffer"),)

    @property
    def signal(self) -> str:
        return "mean_logp" if self.view == "train" else f"mean_logp/{self.view}"

    @property
    def provides(self) -> frozenset[str]:
        return frozenset({self.signal})

    def __call__(self, context: Context, groups: list[Group]) -> list[Group]:
        (need,) = self.needs

        def mean(member: Trajectory) -> Trajectory:
            logp = member.token_signals[need.column][member.trainable]
            return member.with_signals(**{self.signal: float(logp.mean(dtype=float)) if len(logp) else None})

        return [group.map(mean) for group in context.score(groups, need)]

    def __str__(self) -> str:
        return f"mean_logp({self.model}{'' if self.view == 'train' else f', view={self.view}'})"


@dataclass(frozen=True)
class WithoutPrompt(Collector):
    """Give every member the view "alone": the token that opens a text (BOS, else EOS) and no prompt.

    Its first token needs something to be predicted from, and the same response tokens are scored in both views.
    """

    tokenizer: Any = None
    requires = frozenset({"members"})

    def __call__(self, context: Context, groups: list[Group]) -> list[Group]:
        opening = next((t for t in (self.tokenizer.bos_token_id, self.tokenizer.eos_token_id) if t is not None), None)
        if opening is None:
            raise ModelError("the tokenizer has neither a BOS nor an EOS token to open a text with")
        return [group.map(lambda m: m.replace(views={**m.views, ALONE: (opening,)})) for group in groups]

    def __str__(self) -> str:
        return "without_prompt"


@dataclass(frozen=True)
class InstructionFollowing(Collector):
    """How hard a response stays to expect once its prompt is known, as the signal "ifd": low where it says it all.

    nll         s(A | Q) / s(A), a ratio of mean NLLs      perplexity   exp(s(A | Q)) / exp(s(A))
    """

    ratio: Literal["nll", "perplexity"] = "perplexity"
    requires = frozenset({"members", "mean_logp", f"mean_logp/{ALONE}"})
    provides = frozenset({"ifd"})

    def __call__(self, context: Context, groups: list[Group]) -> list[Group]:
        def scored(member: Trajectory) -> Trajectory:
            given, alone = (-member.signals[name] for name in ("mean_logp", f"mean_logp/{ALONE}"))
            return member.with_signals(ifd=given / alone if self.ratio == "nll" else math.exp(given - alone))

        return [group.map(scored) for group in groups]


def top_share(groups: Sequence[Group], by: str, share: float, at_most: float = math.inf) -> list[Group]:
    """The share of all members with the highest value of a signal, of those that do not exceed `at_most`."""
    values = sorted((m.signals[by] for g in groups for m in g.members if m.signals[by] <= at_most), reverse=True)
    kept = values[: max(1, round(share * sum(len(g.members) for g in groups)))]
    lowest = kept[-1] if kept else math.inf

    def chosen(group: Group) -> Group:
        group = group.drop([m.signals[by] <= at_most for m in group.members], f"{by} above {at_most:g}")
        return group.drop([m.signals[by] >= lowest for m in group.members], f"not in the top {share:.0%} by {by}")

    return [chosen(group) for group in groups]


def by_prompt(groups: Sequence[Group]) -> list[Group]:
    """One group for each prompt, with the members of all groups that have it."""
    merged: dict[Any, Group] = {}
    for group in groups:
        known = merged.get(group.prompt)
        merged[group.prompt] = group if known is None else known.add(*group.members)
    return list(merged.values())


instruction_following, mean_logp, without_prompt = InstructionFollowing, MeanLogp, WithoutPrompt
