"""Divergences between the learner and a teacher, position by position. Distributions cross the boundary as hidden
states and the head that reads them: [tokens, vocabulary] never exists.

Axes: M tokens of a (micro-)batch, R tokens with non-zero weight, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from offon.maths import vocabulary
from offon.parts.models import SELF, ModelRef, Need
from offon.parts.schedules import Schedule
from offon.parts.terms import Metrics, Reduce, Scores, Term, per_token
from offon.types.batch import Batch


@dataclass(frozen=True, kw_only=True)
class Divergence(Term):
    """T^2 D(student, teacher) over the whole vocabulary at each selected position; the prefixes are not differentiated.

    kind: forward KL(q || p), reverse KL(p || q), or jsd with `beta` (q teacher, p student). `view` is the prefix the
    teacher reads (a context the student does not have). Logits of both are divided by temperature T; T^2 keeps the
    gradient's scale (Hinton et al. 2015, arXiv:1503.02531).
    """

    to: ModelRef
    kind: Literal["forward", "reverse", "jsd"] = "forward"
    beta: float = 0.5
    temperature: float = 1.0
    view: str = "train"
    on: str = "trainable"
    reduce: Reduce = per_token
    coef: Schedule = 1.0
    name: str = "divergence"

    @property
    def needs(self) -> tuple[Need, ...]:
        return (Need("distribution", SELF), Need("distribution", self.to, view=self.view))

    requires = frozenset({"members"})

    def weigh(self, batch: Batch) -> Tensor:
        return self.reduce.weigh(batch, self.on)

    def units(self, batch: Batch, scores: Scores) -> tuple[Tensor, Metrics]:
        student, teacher = (scores[need] for need in self.needs)
        rows = (batch.weights[self.name] != 0).nonzero()[:, 0]
        distance_R = self.temperature**2 * student.compare(teacher, self._distance, rows, self.temperature)
        distance_M = distance_R.new_zeros(batch.n_tokens).index_copy(0, rows.to(distance_R.device), distance_R)
        value = float(distance_R.detach().sum()) / self.temperature**2
        return distance_M, {f"{self.name}/{self.kind}_nats": (value, float(len(rows)))}

    def _distance(self, student_RV: Tensor, teacher_RV: Tensor) -> Tensor:
        match self.kind:
            case "forward":
                return vocabulary.forward_kl(student_RV, teacher_RV)
            case "reverse":
                return vocabulary.reverse_kl(student_RV, teacher_RV)
            case "jsd":
                return vocabulary.generalised_jsd(student_RV, teacher_RV, self.beta)
