"""The terms a learner minimises. Each says which tokens it reads, what it divides by, what it needs scored, and its
unit; the loop binds it to tensors.

    PolicyGradient                      minus weight * coefficient * logp: factors, ratios, trust, corrections, token
    masks
    Contrast, Unpaired, Listwise        links of margins between sequence scores, and rankings
    SquaredError, LabelCrossEntropy     supervised losses of a head
    Unlikelihood                        away from ids that should not come next
    ParameterPenalty                    on the parameters themselves
"""

from offon.parts.terms.contrast import MISMATCHED, Contrast, Listwise, Unpaired
from offon.parts.terms.factors import (
    AbsoluteLogRatio,
    EntropyWeight,
    Factor,
    ImportanceWeight,
    Kl,
    Likelier,
    P,
    PowerOfP,
    Shaped,
    Uncertainty,
)  # fmt: skip
from offon.parts.terms.heads import LabelCrossEntropy, SquaredError
from offon.parts.terms.links import (
    Exponential,
    Hinge,
    Link,
    Logistic,
    Prospect,
    Robust,
    Savage,
    Square,
    TruncatedSquare,
)
from offon.parts.terms.penalty import ParameterPenalty
from offon.parts.terms.policy_gradient import PolicyGradient, credit, one
from offon.parts.terms.protocol import (
    Metrics,
    Reading,
    Reduce,
    Scores,
    Term,
    constant,
    per_prompt,
    per_sequence,
    per_sequence_sum,
    per_token,
)  # fmt: skip
from offon.parts.terms.ratio import (
    PROXIMAL,
    CapWeight,
    Clip,
    Correction,
    Mask,
    Ratio,
    ShapedRatio,
    SoftGate,
    Truncate,
    Trust,
    behavior,
    proximal,
)  # fmt: skip
from offon.parts.terms.scores import Head, LogProb, LogRatio, Odds, SequenceScore
from offon.parts.terms.token_mask import ClipCovariance, HighEntropy, TokenMask, TopCovariance
from offon.parts.terms.unlikelihood import Unlikelihood

__all__ = [
    "MISMATCHED", "PROXIMAL", "AbsoluteLogRatio", "CapWeight", "Clip", "ClipCovariance", "Contrast", "Correction",
    "EntropyWeight", "Exponential", "Factor", "Head", "HighEntropy", "Hinge", "ImportanceWeight", "TokenMask", "Kl",
    "LabelCrossEntropy", "Likelier", "Link", "Listwise", "LogProb", "LogRatio", "Logistic", "Mask", "Metrics", "Odds",
    "P", "ParameterPenalty", "PolicyGradient", "PowerOfP", "Prospect", "Ratio", "Reading", "Reduce", "Robust", "Savage",
    "Scores", "SequenceScore", "Shaped", "ShapedRatio", "SoftGate", "Square", "SquaredError", "Term", "TopCovariance",
    "Truncate", "TruncatedSquare", "Trust", "Uncertainty", "Unlikelihood", "Unpaired", "behavior", "constant", "credit",
    "one", "per_prompt", "per_sequence", "per_sequence_sum", "per_token", "proximal",
]  # fmt: skip
