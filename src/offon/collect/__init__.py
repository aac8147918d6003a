"""Collectors: functions (context, groups) -> groups, joined by `|`. They may call models; credit may not."""

from offon.collect.parts import (
    BestAgainstWorst,
    Collector,
    Demonstrations,
    Hint,
    KeepBest,
    Pipe,
    Preferences,
    Rollouts,
    Verify,
    best_against_worst,
    demonstrations,
    keep_best,
    preferences,
    rollouts,
    verify,
)

__all__ = [
    "BestAgainstWorst", "Collector", "Demonstrations", "Hint", "KeepBest", "Pipe", "Preferences", "Rollouts", "Verify",
    "best_against_worst", "demonstrations", "keep_best", "preferences", "rollouts", "verify",
]  # fmt: skip
