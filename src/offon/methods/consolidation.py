"""What keeps earlier behaviour: anchors that can be added to any stage."""

from __future__ import annotations

import dataclasses
from typing import Literal

from offon.methods.registry import method
from offon.parts import Artefact, Stage, divergence
from offon.parts.models import SELF_START
from offon.recipe.arguments import ModelArg


@method(
    kind="modifier", family="consolidation", interface="teacher targets", usual_provenance="any",
    usual_role="consolidation", paper="2203.02155",
)  # fmt: skip
def kl_anchor(
    stage: Stage, *, to: ModelArg | None = None, coef: float = 0.05, kind: Literal["reverse", "forward"] = "reverse"
) -> Stage:
    """Stay close to an earlier model: adds coef * KL over the whole vocabulary at every trained position.

        L' = L + coef * 1/D sum_t KL(pi || pi_anchor)      (reverse; forward swaps them)

    to: a model of the recipe ($sft); the learner when the stage began unless written. Exact per position, on any
    prefix, where the sampled estimators are right only on the learner's own tokens. At pi = pi_anchor the gradient is
    0.
    """
    anchor = divergence(to=Artefact(to) if to else SELF_START, kind=kind, coef=coef, name="kl_anchor")
    first, *rest = stage.learners
    return stage.replace(learners=(dataclasses.replace(first, terms=(*first.terms, anchor)), *rest))
