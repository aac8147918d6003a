"""What a later on-policy stage would find on these prompts. On the page: the groups it could learn from."""

from __future__ import annotations

from typing import Any

from offon.behavior.metrics.metric import Estimates, Metric, Sides
from offon.behavior.stage.retention import trainability
from offon.behavior.statistics.intervals import Est

GROUP_SIZE = 8  # rollouts of one prompt in a later stage, for which the share of useful groups is told


def compute(sides: Sides) -> dict[str, dict[str, Est]]:
    """By side, where every prompt has the samples that one group, or k rollouts, needs."""
    return {
        when: trainability(counts, sides.k, GROUP_SIZE, clusters=sides.clusters)
        for when, counts in (("before", sides.before), ("after", sides.after))
        if (counts.scored >= max(sides.k, GROUP_SIZE)).all()
    }


def useful_groups(value: dict[str, dict[str, Any]]) -> Estimates:
    return {when: numbers.get("mixed_groups") for when, numbers in (value or {}).items()}


METRIC = Metric(
    key="trainability",
    unit="share",
    compute=compute,
    title="Useful groups",
    meaning=f"of {GROUP_SIZE} rollouts of a prompt, how often both a success and a failure, which is what a later "
    "on-policy stage learns from",
    value="`mixed_groups`, and `ers`, how often k rollouts show a success, under `before` and `after`; a side with "
    f"fewer samples than k or {GROUP_SIZE} of a prompt is left out",
    parts=useful_groups,
)
