"""How much of what was there is still there."""

from __future__ import annotations

from offon.behavior.metrics.metric import Metric, Sides
from offon.behavior.stage.retention import retention
from offon.behavior.statistics.intervals import Est


def compute(sides: Sides) -> Est | None:
    """None without any success before: nothing was there to keep."""
    if not sides.before.successes.any():
        return None
    return retention(sides.before, sides.after, clusters=sides.clusters)


METRIC = Metric(
    key="retention",
    unit="share",
    compute=compute,
    title="Kept",
    meaning="the share of earlier success that is still there, losses on some prompts not set off against gains on "
    "others: judged on one half of the samples, measured on the other",
    value="an estimate; null without success before",
)
