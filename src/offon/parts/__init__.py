"""Frozen declarations: what a method is made of. Nothing here runs."""

from offon.parts.credits import group_mean_std, per_remaining, teacher_logratio
from offon.parts.loop import BASE, LAST, Loop, Ref
from offon.parts.models import SELF, SELF_START, Artefact, Ema, Live, Mix, ModelRef, Need, Route, Start
from offon.parts.schedules import Each, Fade, Growth, Sigmoid
from offon.parts.stage import Learner, Stage, Updates, policy
from offon.parts.terms import (
    AbsoluteLogRatio,
    CapWeight,
    Clip,
    ClipCovariance,
    Contrast,
    EntropyWeight,
    Exponential,
    Head,
    HighEntropy,
    Hinge,
    ImportanceWeight,
    Kl,
    LabelCrossEntropy,
    Likelier,
    Listwise,
    Logistic,
    LogProb,
    LogRatio,
    Mask,
    Odds,
    P,
    ParameterPenalty,
    PolicyGradient,
    PowerOfP,
    Prospect,
    Ratio,
    Reduce,
    Robust,
    Savage,
    Shaped,
    ShapedRatio,
    SoftGate,
    Square,
    SquaredError,
    TopCovariance,
    Truncate,
    TruncatedSquare,
    Uncertainty,
    Unlikelihood,
    Unpaired,
    behavior,
    constant,
    credit,
    one,
    per_prompt,
    per_sequence,
    per_sequence_sum,
    per_token,
    proximal,
)  # fmt: skip
from offon.parts.terms.divergence import Divergence, Jsd, Skew, TopK, jsd

contrast, divergence, policy_gradient = Contrast, Divergence, PolicyGradient
listwise, unpaired = Listwise, Unpaired

__all__ = [
    "BASE", "LAST", "Each", "Growth", "Loop", "Ref",
    "SELF", "SELF_START", "AbsoluteLogRatio", "Artefact", "CapWeight", "Clip", "ClipCovariance", "Ema", "EntropyWeight",
    "Exponential", "Fade", "Head", "HighEntropy", "Hinge", "ImportanceWeight", "Jsd", "Kl", "LabelCrossEntropy",
    "Learner", "Likelier", "Live", "LogProb", "LogRatio", "Logistic", "Mask", "Mix", "ModelRef", "Need", "Odds", "P",
    "ParameterPenalty", "PowerOfP", "Prospect", "Ratio", "Reduce", "Robust", "Route", "Savage", "Shaped", "ShapedRatio",
    "Sigmoid", "Skew", "SoftGate", "Square", "SquaredError", "Stage", "Start", "TopCovariance", "TopK", "Truncate",
    "TruncatedSquare", "Uncertainty", "Unlikelihood", "Updates", "behavior", "constant", "contrast", "credit",
    "divergence", "group_mean_std", "jsd", "listwise", "one", "per_prompt", "per_remaining", "per_sequence",
    "per_sequence_sum", "per_token", "policy", "policy_gradient", "proximal", "teacher_logratio", "unpaired",
]  # fmt: skip
