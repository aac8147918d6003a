"""Collectors: functions (context, groups) -> groups, joined by `|`. They may call models; credit may not."""

from offon.collect.base import Collector, Pipe
from offon.collect.continuation import ContinuationValue, continuation_value
from offon.collect.data import Demonstrations, Preferences, demonstrations, preferences
from offon.collect.judged import Judged, judged
from offon.collect.pairs import BestAgainstWorst, best_against_worst
from offon.collect.sampling import Hint, Rollouts, rollouts
from offon.collect.select import KeepBest, keep_best
from offon.collect.signals import Verify, verify
from offon.collect.steps import Steps, steps

__all__ = [
    "BestAgainstWorst", "Collector", "ContinuationValue", "Demonstrations", "Hint", "Judged", "KeepBest", "Pipe",
    "Preferences", "Rollouts", "Steps", "Verify", "best_against_worst", "continuation_value", "demonstrations",
    "judged", "keep_best", "preferences", "rollouts", "steps", "verify",
]  # fmt: skip
