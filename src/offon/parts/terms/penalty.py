"""A term on the parameters themselves, added once per optimizer step: no tokens, no weights, no micro-batches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from offon.errors import ModelError
from offon.lazy import Tensor, torch
from offon.parts.models import SELF, SELF_START, ModelRef, Need
from offon.parts.schedules import Schedule

Weights = Mapping[str, Tensor]  # parameter name -> its value


@dataclass(frozen=True, kw_only=True)
class ParameterPenalty:
    """1/2 sum_j F_j (theta_j - theta*_j)^2 over the parameters that move, theta* those of the model `to`.

    importance: an artefact with F under the same parameter names (EWC's diagonal Fisher); 1 unless written, which is
    L2 to `to`. At theta = theta* value and gradient are 0.
    Reference: Kirkpatrick et al. 2016, arXiv:1612.00796, eq. 3.
    """

    to: ModelRef = SELF_START
    importance: ModelRef | None = None
    coef: Schedule = 1.0
    name: str = "parameter_penalty"

    unit = "parameters"

    @property
    def requires(self) -> frozenset[str]:
        return frozenset()

    @property
    def needs(self) -> tuple[Need, ...]:
        weights = tuple(Need("parameters", ref, when="step") for ref in (SELF, self.to))
        return weights + ((Need("importance", self.importance, when="step"),) if self.importance else ())

    def loss(self, parameters: Mapping[Need, Weights]) -> Tensor:
        trained, anchor, *importance = (parameters[need] for need in self.needs)
        total = torch.zeros(())
        for name, value in trained.items():
            if not value.requires_grad:
                continue
            for other, ref in zip((anchor, *importance), (self.to, self.importance), strict=False):
                if name not in other:
                    raise ModelError(
                        f"{self.name}: {ref} has no parameter {name!r}",
                        why="a penalty compares parameters one by one",
                        fix="train all weights (no LoRA), or anchor with kl_anchor",
                    )
            if importance and importance[0][name].min() < 0:
                raise ModelError(
                    f"{self.name}: {self.importance} holds no importance of parameters",
                    why=f"{int((importance[0][name] < 0).sum())} of {value.numel()} of its {name!r} are negative",
                    fix="what a node of method fisher made",
                )
            moved = (value - anchor[name].detach().to(value)).square()
            total = total.to(value) + 0.5 * (moved * importance[0][name].to(value) if importance else moved).sum()
        return total
