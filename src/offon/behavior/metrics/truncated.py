"""How often a response is cut."""

from __future__ import annotations

from offon.behavior.metrics.metric import Metric, certain_change
from offon.behavior.metrics.response_average import VALUE, response_average
from offon.types import Trajectory


def cut(response: Trajectory) -> float:
    return float("truncated" in response.tags)


METRIC = Metric(
    key="truncated",
    unit="share",
    compute=response_average(cut),
    title="Truncated",
    meaning="the share of responses that were cut at the probe's max_tokens before they ended",
    value=VALUE,
    line=certain_change(0.01),
)
