"""Own samples that are imitated: likelihood is maximised on them, as on data."""

from __future__ import annotations

from dataclasses import dataclass

from offon.parts.collector import Collector
from offon.parts.context import Context
from offon.types import TARGET, Group


@dataclass(frozen=True)
class AsTargets(Collector):
    """Tag every member as a target: its log-probs are those of the model itself, softmax(logits), however it was
    sampled. Ratios and policy gradients are about the sampler's distribution instead, softmax(logits / T)."""

    requires = frozenset({"members"})

    def __call__(self, context: Context, groups: list[Group]) -> list[Group]:
        return [group.map(lambda member: member.tagged(TARGET)) for group in groups]

    def __str__(self) -> str:
        return "targets"


def as_targets() -> AsTargets:
    return AsTargets()
