"""Measuring behaviour: support, decomposition, diagnosis, handoff. Outcomes in, numbers with intervals out."""

from offon.behavior.change.success_decomposition import Decomposition, decompose
from offon.behavior.change.support import largest_certifiable_k, prompt_changes, support_calls, support_threshold
from offon.behavior.diagnosis.bottleneck import Measured, Rule
from offon.behavior.diagnosis.controls import Controls
from offon.behavior.diagnosis.diagnose import diagnose, measured_outcomes
from offon.behavior.stage.task_entry import task_handoff
from offon.behavior.stage.training_health import Alarm, StageStatistics, explain
from offon.behavior.statistics.checker_errors import Checker
from offon.behavior.statistics.counts import Counts, count
from offon.behavior.statistics.intervals import Est, mean_over_prompts, paired_change, wilson
from offon.behavior.statistics.pass_at_k import curve, mean_pass_at_k, pass_at_k

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
