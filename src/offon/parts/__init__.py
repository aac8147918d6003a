"""Frozen declarations: what a method is made of. Nothing here runs."""

from offon.parts.credit import group_mean_std, teacher_logratio
from offon.parts.divergence import Divergence
from offon.parts.models import SELF, SELF_START, Artefact, ModelRef, Need
from offon.parts.schedules import Fade
from offon.parts.stage import Learner, Stage, Updates, policy
from offon.parts.terms import (
    Clip,
    Contrast,
    PolicyGradient,
    Ratio,
    Reduce,
    behavior,
    constant,
    credit,
    one,
    per_sequence,
    per_sequence_sum,
    per_token,
    proximal,
)

contrast, divergence, policy_gradient = Contrast, Divergence, PolicyGradient

__all__ = [
    "SELF", "SELF_START", "Artefact", "Clip", "Fade", "Learner", "ModelRef", "Need", "Ratio", "Reduce", "Stage",
    "Updates", "behavior", "constant", "contrast", "credit", "divergence", "group_mean_std", "one", "per_sequence",
    "per_sequence_sum", "per_token", "policy", "policy_gradient", "proximal", "teacher_logratio",
]  # fmt: skip
