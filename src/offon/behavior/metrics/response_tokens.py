"""How long responses are."""

from __future__ import annotations

from offon.behavior.metrics.metric import Metric, certain_change
from offon.behavior.metrics.response_average import VALUE, response_average

METRIC = Metric(
    key="response_tokens",
    unit="tokens",
    compute=response_average(len),
    title="Response tokens",
    meaning="the mean length of a response, in tokens of the model's own vocabulary",
    value=VALUE,
    line=certain_change(0.1, relative=True),
)
