"""Measuring behaviour: support, decomposition, diagnosis, handoff. Outcomes in, numbers with intervals out."""

from offon.behavior.bottleneck import Measured, Rule
from offon.behavior.controls import Controls
from offon.behavior.counts import Counts, count
from offon.behavior.decompose import Decomposition, decompose
from offon.behavior.diagnose import diagnose, measured_outcomes
from offon.behavior.explain import Alarm, StageStatistics, explain
from offon.behavior.handoff import task_handoff
from offon.behavior.intervals import Est, mean_over_prompts, paired_change, wilson
from offon.behavior.passk import curve, mean_pass_at_k, pass_at_k
from offon.behavior.support import largest_certifiable_k, prompt_changes, support_calls, support_threshold
from offon.behavior.verifier import Checker

__all__ = [
    "Alarm",
    "Checker",
    "Controls",
    "Counts",
    "Decomposition",
    "Est",
    "Measured",
    "Rule",
    "StageStatistics",
    "count",
    "curve",
    "decompose",
    "diagnose",
    "explain",
    "largest_certifiable_k",
    "mean_over_prompts",
    "mean_pass_at_k",
    "measured_outcomes",
    "paired_change",
    "pass_at_k",
    "prompt_changes",
    "support_calls",
    "support_threshold",
    "task_handoff",
    "wilson",
]
