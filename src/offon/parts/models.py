"""Which model, and what it is needed for. From the needs of its parts a stage's models are derived, and when."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class ModelRef:
    """A model by its role. `kind` is one of

    self      the learner that reads this, live
    start     the learner as it was when the stage began (adapter off, or a frozen copy)
    artefact  another model, frozen, named by the recipe (a teacher, an earlier stage)
    """

    kind: Literal["self", "start", "artefact"]
    name: str = ""

    def __str__(self) -> str:
        return self.name or self.kind


SELF = ModelRef("self")
SELF_START = ModelRef("start")


def Artefact(name: str) -> ModelRef:
    return ModelRef("artefact", name)


@dataclass(frozen=True)
class Need:
    """What a part wants scored, by whom, under which view of the trajectory, and when.

    what   logp: log-probs of the response tokens; distribution: the whole next-token distribution (as hidden states);
           entropy: of the next-token distribution, nats, without gradient; logp_at: log-probs of the ids in the batch
           column `at` [M, K] in place of the response's token; value: the value head before token t; score: the score
           head at token t; parameters: the weights themselves (of a term on parameters)
    when   buffer: once, when the buffer is filled, without gradient, kept as the token signal `column`;
           step: on the whole step batch before it is split, without gradient, for a term's `prepare`;
           loss: at each micro-batch, with gradient if the model is SELF
    """

    what: Literal["logp", "distribution", "entropy", "logp_at", "value", "score", "parameters"]
    model: ModelRef = SELF
    view: str = "train"
    when: Literal["buffer", "step", "loss"] = "loss"
    at: str = ""

    @property
    def column(self) -> str:
        """The name of the token signal a buffer score is kept under: logp@teacher, logp@start/hint."""
        return f"{self.what}@{self.model}" + ("" if self.view == "train" else f"/{self.view}")
