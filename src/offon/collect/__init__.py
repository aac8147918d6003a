"""Collectors: functions (context, groups) -> groups, joined by `|`. They may call models; credit may not."""

from offon.collect.shape.combinators import Gate, Mixture, Refill, gate, mixture, refill
from offon.collect.shape.filter import Condition, Drop, KeepBest, drop, keep_best, mixed, rate, right, tagged
from offon.collect.shape.pairs import (
    AgainstOpponents,
    BestAgainstWorst,
    Judged,
    against_opponents,
    best_against_worst,
    judged,
)
from offon.collect.shape.steps import LabelledSteps, Steps, labelled_steps, steps
from offon.collect.shape.views import Shown, SiblingShown, shown, sibling_shown
from offon.collect.signals.monte_carlo_value import ContinuationValue, continuation_value
from offon.collect.signals.verify import Score, Verify, score, verify
from offon.collect.sources.dataset import (
    AddDemo,
    Demonstrations,
    DrawnFrom,
    Labelled,
    Mismatched,
    Preferences,
    Rankings,
    TaggedBy,
    add_demo,
    demonstrations,
    drawn_from,
    labelled,
    mismatched,
    preferences,
    rankings,
    tagged_by,
)
from offon.collect.sources.hints import ExpertPrefix, Hint, Rubric, Template
from offon.collect.sources.refinement import Again, Refine, again, refine
from offon.collect.sources.replay import AddReplay, Experience, QueueHardest, add_replay, experience, queue_hardest
from offon.collect.sources.rollouts import Asked, Guidance, Guide, Rollouts, rollouts, sample
from offon.parts.collector import Collector, Pipe

__all__ = [
    "AddDemo", "AddReplay", "Again", "AgainstOpponents", "Asked", "BestAgainstWorst", "Collector", "Condition",
    "ContinuationValue", "Demonstrations", "DrawnFrom", "Drop", "Experience", "ExpertPrefix", "Gate", "Guidance",
    "Guide", "Hint", "Judged", "KeepBest", "Labelled", "LabelledSteps", "Mismatched", "Mixture", "Pipe", "Preferences",
    "QueueHardest", "Rankings", "Refill", "Refine", "Rollouts", "Rubric", "Score", "Shown", "SiblingShown", "Steps",
    "TaggedBy", "Template", "Verify", "add_demo", "add_replay", "again", "against_opponents", "best_against_worst",
    "continuation_value", "demonstrations", "drawn_from", "drop", "experience", "gate", "judged", "keep_best",
    "labelled", "labelled_steps", "mismatched", "mixed", "mixture", "preferences", "queue_hardest", "rankings", "rate",
    "refill", "refine", "right", "rollouts", "sample", "score", "shown", "sibling_shown", "steps", "tagged",
    "tagged_by", "verify",
]  # fmt: skip
