"""What is computed in place of a paper's surrogate: the same gradient, with the coefficient of each token detached.

A surrogate with likelihood ratios, such as min(r A, clip(r) A), is differentiated through its ratios; here each token's
log-prob is multiplied by what that leaves, as a number. The loss that is logged is therefore not the surrogate's.
"""

from __future__ import annotations

from typing import NamedTuple

from offon.parts.stage import Learner, Stage
from offon.parts.terms import PolicyGradient

SAME_GRADIENT = (
    "What is computed has the gradient of the paper's L, with the coefficient of each token detached (sg). The logged "
    "loss is the value of this and not of L: their gradients agree, their values do not."
)
SAME_VALUE = "What is computed is L as it stands: the weight on each token is detached (sg) by the paper too."


class Computed(NamedTuple):
    sentence: str
    formulas: tuple[str, ...]


def computed(stage: Stage) -> Computed | None:
    """Of a stage whose policy gradient has a ratio; None for any other, where L is computed as it is written."""
    learners = [learner for learner in stage.learners if any(term.ratio for term in _policy_gradients(learner))]
    if not learners:
        return None
    terms = [term for learner in learners for term in _policy_gradients(learner)]
    others = [term for learner in learners for term in learner.terms if term not in terms]
    same_value = all(term.trust is not None and term.trust.detached for term in terms)
    named = len(terms) + len(others) > 1
    formulas = []
    for term in terms:
        tokens = "" if term.on == "trainable" else f"     on {term.on}"
        formulas.append((f"{term.name}: " if named else "") + term.formula.factor + tokens)
    formulas += [f"{term.name}: as L writes it" for term in others]
    meaning = dict.fromkeys(line for term in terms for line in term.formula.meaning)
    sentence = SAME_VALUE if same_value else SAME_GRADIENT
    return Computed(sentence, (*formulas, *(f"    {line}" for line in meaning)))


def _policy_gradients(learner: Learner) -> list[PolicyGradient]:
    return [term for term in learner.terms if isinstance(term, PolicyGradient)]
